"""What crosses the gap on media: bytes against what changed, time against one read of the medium.

    python benchmarks/crossing.py --gb 4 --medium-mbps 150

As root. A bundle with one shard of 3.9 GB (or of --gb, if that is less) and small files as a real
one has them. Media are ext4 on loop devices, which the kernel holds to --medium-mbps when they are
read, as a stick would; the prefix is on this machine's disk. All in one run:

- collect: `install.sh --collect` from such a medium, beside `cat` of its files, both from a cold
  cache; the smoke test of the model is left out by a stub.
- update: a new bundle with one other wheel, `carry --have`; bytes on the medium.
- a flipped byte in the shard: what `need.json` asks for, and what `carry --need` writes; the same
  with `--parity 5%`, where nothing has to be brought.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llava_pack.assemble.chunk_digests import copy_in_chunks
from llava_pack.crossing.parity import par2_program
from llava_pack.format.chunks import Chunks
from llava_pack.format.manifest import FileEntry, parse_manifest, render_manifest
from llava_pack.format.sums import MANIFEST_NAME
from tests.support.bundle import BASE_PYTHON, CHECKOUT, BundleSimulator, place, seal

MOST_SHARD_BYTES = 3_900_000_000
WHEEL_BYTES = 230_000
PIECE = 1 << 26
SHARD = "model/tiny-llava/shard-0.safetensors"
WHEEL = "wheels/changed-1-py3-none-any.whl"
SLOW = Path("/sys/fs/cgroup/blkio/llava-pack-benchmark")


def write_bundle(root: Path, shard_bytes: int, wheel: bytes, *, shard_of: Path | None) -> str:
    """Write a bundle with one large shard, made anew or linked from another one; return its id."""
    draw = random.Random(2)
    small = {f"licenses/l{n}/LICENSE": draw.randbytes(10_000) for n in range(150)}
    small |= {f"wheels/w{n}-1-py3-none-any.whl": draw.randbytes(200_000) for n in range(60)}
    small |= {WHEEL: wheel, "runtime/par2": par2_program().read_bytes()}
    BundleSimulator(extra=small, release=1_700_000_000 + len(wheel)).write(root)
    if shard_of is None:
        with (root / SHARD).open("wb") as stream:
            for at in range(0, shard_bytes, PIECE):
                stream.write(draw.randbytes(min(PIECE, shard_bytes - at)))
    else:
        os.link(shard_of / SHARD, root / SHARD)
    with (root / SHARD).open("rb") as stream:
        found = copy_in_chunks(stream, None, lambda _: None)
    manifest = parse_manifest((root / MANIFEST_NAME).read_bytes())
    entry = FileEntry(
        path=SHARD, size_bytes=shard_bytes, mode=0o644, sha256=found.sha256, origin={"kind": "text"}
    )
    chunks = Chunks(sha256={found.sha256: found.chunks})
    whole = replace(manifest, files=(*manifest.files, entry), chunks=chunks)
    place(root / MANIFEST_NAME, render_manifest(whole), 0o644)
    return seal(root)


@contextmanager
def medium(image: Path, bytes_per_s: int, size_bytes: int) -> Iterator[Path]:
    """Give an ext4 file system on a loop device that is read no faster than a stick."""
    with image.open("wb") as stream:
        stream.truncate(size_bytes)
    run("mkfs.ext4", "-q", "-m", "0", image)
    loop = run("losetup", "--find", "--show", image)
    number = (Path("/sys/block") / Path(loop).name / "dev").read_text().strip()
    SLOW.mkdir(exist_ok=True)
    (SLOW / "blkio.throttle.read_bps_device").write_text(f"{number} {bytes_per_s}")
    point = image.with_suffix(".mounted")
    point.mkdir(exist_ok=True)
    run("mount", loop, point)
    try:
        yield point
    finally:
        run("umount", point)
        run("losetup", "--detach", loop)
        image.unlink()


def run(*command: str | Path) -> str:
    done = subprocess.run([str(w) for w in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def llava_pack(*words: str | Path) -> str:
    return run(Path(sys.executable).with_name("llava-pack"), *words)


def slow(*command: str | Path, code: int = 0) -> float:
    """Return how long a command takes that reads media at their rate, from a cold cache."""
    run("sync")
    Path("/proc/sys/vm/drop_caches").write_text("3")
    words = ["sh", "-c", f'echo $$ >{SLOW}/tasks; exec "$@"', "sh", *map(str, command)]
    env = {"PATH": f"{Path(BASE_PYTHON).parent}:{os.environ['PATH']}", "HOME": "/nonexistent"}
    began_s = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    if done.returncode != code:
        raise SystemExit(f"{words}: {done.stdout}{done.stderr}")
    return time.monotonic() - began_s


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        (byte,) = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte ^ 1]))


def install(bundle: Path, identity: str, prefix: Path, *, code: int = 0) -> float:
    script = CHECKOUT / "installers" / "install.sh"
    words = ["--collect", "--bundle", bundle, "--expect", identity, "--prefix", prefix]
    return slow("sh", script, *words, code=code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=4.0)
    parser.add_argument("--medium-mbps", type=float, default=150.0)
    options = parser.parse_args()
    shard_bytes = min(int(options.gb * 1e9), MOST_SHARD_BYTES)
    rate = int(options.medium_mbps * 1e6)
    print(
        f"{platform.machine()}, {os.cpu_count()} processors; a shard of {shard_bytes / 1e9:.1f} GB"
    )
    with tempfile.TemporaryDirectory(prefix="llava-pack-crossing-") as scratch:
        folder = Path(scratch)
        one, two = folder / "one", folder / "two"
        first = write_bundle(
            one, shard_bytes, random.Random(3).randbytes(WHEEL_BYTES), shard_of=None
        )
        second = write_bundle(
            two, shard_bytes, random.Random(4).randbytes(WHEEL_BYTES), shard_of=one
        )
        measure(folder, {"one": first, "two": second}, rate, int(shard_bytes * 1.25) + (1 << 28))


def measure(folder: Path, ids: dict[str, str], rate: int, room_bytes: int) -> None:
    one, two, prefix = folder / "one", folder / "two", folder / "prefix"
    with medium(folder / "stick", rate, room_bytes) as stick:
        llava_pack("carry", one, "--to", stick, "--parity", "5%")
        there = stick / "tiny"
        read_s = slow("sh", "-c", f"cd {there} && cut -c 67- SHA256SUMS | xargs cat >/dev/null")
        took_s = install(there, ids["one"], prefix)
        placed_s = placing_s(prefix)
        print(f"one read of the medium: {read_s:.1f} s; collect: {took_s:.1f} s")
        print(f"of it what brings the files: {placed_s:.1f} s, {read_s / placed_s:.2f} of the rate")

        flip(there / SHARD, 1_234_567_890 % (there / SHARD).stat().st_size)
        shutil.rmtree(prefix)
        mended_s = install(there, ids["one"], prefix)
        print(f"a flipped byte with parity 5 %: 0 bytes to bring, {mended_s:.1f} s")

        shutil.rmtree(there / "parity")
        shutil.rmtree(prefix)
        install(there, ids["one"], prefix, code=4)
        need = json.loads((prefix / "need.json").read_text())
        asked = sum(one["size_bytes"] for one in need["files"] + need["pieces"])
        llava_pack("carry", one, "--to", folder / "repair", "--need", prefix / "need.json")
        brought = size_of(folder / "repair")
        print(f"the same without: {asked} bytes asked for, {brought} on the medium")
        install(folder / "repair/tiny-repair", ids["one"], prefix)
    (folder / "have").write_text(llava_pack("have", "--prefix", prefix))
    llava_pack("carry", two, "--to", folder / "update", "--have", folder / "have")
    update = size_of(folder / "update")
    changed = {path for path in files(two) if digest(two / path) not in digests(one)}
    heads = ("SHA256SUMS", MANIFEST_NAME, "START-HERE.txt")
    listed = sum((two / name).stat().st_size for name in heads)
    exact = sum((two / path).stat().st_size for path in changed)
    print(f"update: {update} bytes, {exact} changed and {listed} of the list")
    print(f"that is {update / (exact + listed):.4f} of them")
    install(folder / "update/tiny-update", ids["two"], prefix)


def placing_s(prefix: Path) -> float:
    """Return how long the step took that brings the files, as the receipt says."""
    receipt = json.loads((prefix / "models/tiny/current/receipt.json").read_text())
    return float(receipt["step_ms"]["place"]) / 1000


def files(bundle: Path) -> list[str]:
    return [line.split("  ", 1)[1] for line in (bundle / "SHA256SUMS").read_text().splitlines()
            if not line.endswith(MANIFEST_NAME)]  # fmt: skip


def digests(bundle: Path) -> set[str]:
    return {line.split()[0] for line in (bundle / "SHA256SUMS").read_text().splitlines()}


def digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    main()
