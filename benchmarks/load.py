"""Loading a checkpoint in the original layout, beside transformers' own from_pretrained.

    python benchmarks/load.py --gigabytes 1.2

The same weights twice: as published (safetensors, the tower beside it) for our engine, and as a
transformers-native folder for `from_pretrained`. Every load runs in a process of its own, from a
warm page cache, libraries imported before the clock starts. Our engine's first question, which it
asks itself before it says that it is ready, is left out: from_pretrained asks none. Peak memory is
RssAnon + RssShmem over what it was before, against the bytes of the loaded element type.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.quantize import Peak, rss_bytes
from llava_pack.format.progress import Silent

ROUNDS = 3
DTYPES = {"fp16": "float16", "fp32": "float32"}


def make_both(folder: Path, gigabytes: float) -> tuple[Path, Path, int]:
    """Write both layouts; return the original's folder, the native one, and the bytes in fp16."""
    from benchmarks.checkpoint import make
    from llava_pack.assemble.chat_template import chat_template
    from llava_pack.convert.native import to_native
    from llava_pack.convert.parts import original_parts
    from llava_pack.convert.shards import to_safetensors
    from tests.support.checkpoints import TinyLlava, TinyTower

    layers = max(1, round(gigabytes * 1e9 / 2 / 50_331_648))
    spec = TinyLlava(
        hidden=2048, inner=5504, layers=layers, heads=32, groups=32, vocabulary=1024,
        tower=TinyTower(width=64, inner=128, heads=2, picture=112),
    )  # fmt: skip
    model_dir = make(folder, spec)
    to_safetensors(model_dir, model_dir)
    for pickle in model_dir.glob("pytorch_model*"):
        pickle.unlink()
    native = folder / "native"
    native.mkdir()
    with original_parts(model_dir) as parts:
        to_native(
            parts,
            folder / "clip-tiny",
            native,
            chat_template=chat_template("llava_v1", legacy=True),
        )
    size_bytes = sum(path.stat().st_size for path in model_dir.glob("*.safetensors"))
    return model_dir, native, size_bytes


def measured(kind: str, folder: Path, precision: str) -> dict[str, float]:
    """Load once in another process and return its seconds and peak bytes."""
    command = [sys.executable, __file__, "--one", kind, "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--precision", precision], stdout=subprocess.PIPE, check=True, text=True
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


class Phases(Silent):
    """Notes when the warm-up begins."""

    warm_up_s: float | None = None

    def start(self, what: str, total_bytes: int | None) -> None:
        """Note the time of the warm-up."""
        super().start(what, total_bytes)
        if what == "warm-up":
            self.warm_up_s = time.perf_counter()


def load_one(kind: str, folder: Path, precision: str) -> dict[str, float]:
    """Load in this process."""
    import torch
    from transformers import LlavaForConditionalGeneration

    import llava_pack.engine.loading.assembly  # noqa: F401 - imported before the clock starts
    from llava_pack.engine.loading.load import load_engine

    phases = Phases()
    before = rss_bytes()
    with Peak() as peak:
        began_s = time.perf_counter()
        if kind == "ours":
            kept: object = load_engine(
                folder, vision_tower=folder.parent / "clip-tiny", precision=precision,
                device="cpu", slots=1, context_tokens=256, progress=phases,
            )  # fmt: skip
        else:
            dtype = getattr(torch, DTYPES[precision])
            kept = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        took_s = (phases.warm_up_s or time.perf_counter()) - began_s
    del kept
    return {"seconds": took_s, "peak_bytes": peak.bytes - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.2)
    parser.add_argument("--one", choices=["ours", "theirs"])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp16")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(load_one(given.one, given.folder, given.precision)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        original, native, size_bytes = make_both(Path(name), given.gigabytes)
        print(f"{size_bytes / 1e9:.2f} GB in fp16")
        for precision in ("fp16", "fp32"):
            rows = {
                kind: [measured(kind, folder, precision) for _ in range(ROUNDS)]
                for kind, folder in (("ours", original), ("theirs", native))
            }
            best = {kind: min(row["seconds"] for row in runs) for kind, runs in rows.items()}
            loaded = size_bytes * (2 if precision == "fp32" else 1)
            for kind, runs in rows.items():
                peak = max(row["peak_bytes"] for row in runs) / loaded
                print(f"{precision} {kind:<7}{best[kind]:7.2f} s   peak {peak:.2f} x loaded bytes")
            print(f"{precision} time, ours / from_pretrained: {best['ours'] / best['theirs']:.2f}")


if __name__ == "__main__":
    main()
