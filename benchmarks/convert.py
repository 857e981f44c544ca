"""Pickled shards into safetensors: memory, and the rate beside `cp` and `sha256sum`.

    python benchmarks/convert.py --gigabytes 2

All three read the same files from a warm page cache, in one run; the ratios mean something, the
rates depend on the machine. Converting runs in a process of its own; its clock starts once the
code is imported. Memory is RssAnon + RssShmem at its peak, over what it was before.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.quantize import Peak, rss_bytes

SHARD_TENSORS = 8


def pickled_shards(folder: Path, *, total_bytes: int) -> list[Path]:
    """Write a checkpoint of noise as torch saves it: shards of a few tensors."""
    import torch

    from tests.support.checkpoints import TinyLlava, make_llava

    model_dir = make_llava(folder, TinyLlava())
    for path in model_dir.glob("pytorch_model*"):
        path.unlink()
    side = 4096
    count = max(2, round(total_bytes / (side * side * 2) / SHARD_TENSORS))
    noise = torch.randn(side, side, generator=torch.Generator().manual_seed(0)).half()
    paths = []
    for number in range(1, count + 1):
        path = model_dir / f"pytorch_model-{number:05d}-of-{count:05d}.bin"
        names = [f"model.layers.{number}.t{index}.weight" for index in range(SHARD_TENSORS)]
        torch.save({name: noise.clone() for name in names}, path)
        paths.append(path)
    return paths


def timed(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def convert(model_dir: Path, out: Path) -> dict[str, float]:
    """Convert in this process and return its seconds and the bytes it took."""
    from llava_pack.convert.shards import to_safetensors

    before = rss_bytes()
    with Peak() as peak:
        took_s = timed(lambda: (to_safetensors(model_dir, out), os.sync()))
    return {"seconds": took_s, "peak_bytes": peak.bytes - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(convert(*given.one)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        needed = given.gigabytes * 3.2e9
        if shutil.disk_usage(folder).free < needed:
            raise SystemExit(f"needs {needed / 1e9:.1f} GB in {folder}")
        paths = pickled_shards(folder / "model", total_bytes=round(given.gigabytes * 1e9))
        total = sum(path.stat().st_size for path in paths)
        for path in paths:
            path.read_bytes()
        copies, out = folder / "copies", folder / "out"
        copies.mkdir()
        out.mkdir()
        os.sync()
        copy_s = timed(lambda: subprocess.run(["cp", *paths, copies], check=True) and os.sync())
        shutil.rmtree(copies)
        hash_s = timed(
            lambda: subprocess.run(["sha256sum", *paths], check=True, stdout=subprocess.DEVNULL)
        )
        command = [sys.executable, __file__, "--one", str(folder / "model"), str(out)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        measured = json.loads(done.stdout.splitlines()[-1])
    convert_s, peak = measured["seconds"], measured["peak_bytes"]
    shard = total / len(paths)
    print(f"{total / 1e9:.2f} GB in {len(paths)} pickled shards")
    print(f"converting   {total / convert_s / 1e6:8.0f} MB/s")
    for what, took_s in (("cp, sync", copy_s), ("sha256sum", hash_s)):
        ratio = took_s / convert_s
        print(f"{what:<13}{total / took_s / 1e6:8.0f} MB/s   converting has {ratio:.2f} x its rate")
    print(f"memory added {peak / 1e6:8.0f} MB, a shard has {shard / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
