"""What recovery data costs beside SHA-256 over the same bytes: ratios of one run, and the machine.

    python benchmarks/parity_volumes.py --mb 800 4000 --percent 5 --repeat 3

Shards of random bytes, in the page cache. `protect` as `carry` calls it, beside `sha256sum` and
`openssl dgst -sha256`, each in a process of its own, in turns; then `rebuild` of one shard with a
flipped byte, and of one small file that is gone. CPU seconds and peak memory include children.
"""

import argparse
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llava_pack.crossing.parity import par2_program, protect
from llava_pack.crossing.volumes import plan_volumes
from llava_pack.format.digests import sha256_stream
from llava_pack.format.progress import Silent
from llava_pack.target.parity import WantedFile, rebuild

SHARD_BYTES = 200_000_000
BLOCKS = (200, 1000, 2000, 5000)
WRITTEN_BYTES = 1_000_000
SMALL = {f"licenses/l{number}/LICENSE": 10_000 for number in range(100)}


@dataclass(frozen=True)
class Cost:
    """Of one process and its children."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def contents(folder: Path, size_bytes: int) -> list[str]:
    draw = random.Random(1)
    names = [f"model/m/shard-{number}.safetensors" for number in range(size_bytes // SHARD_BYTES)]
    for name, size in {**dict.fromkeys(names, SHARD_BYTES), **SMALL}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as stream:  # this process stays small: its peak counts
            for offset in range(0, size, WRITTEN_BYTES):
                stream.write(draw.randbytes(min(WRITTEN_BYTES, size - offset)))
    return [*names, *SMALL]


def own(*arguments: str) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), *arguments]


def cost(command: list[str], folder: Path) -> Cost:
    """Run a process to its end; the kernel counts what its children took with it."""
    began_s = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall_s = time.monotonic() - began_s
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return Cost(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def middle(costs: list[Cost]) -> Cost:
    return sorted(costs, key=lambda one: one.cpu_s)[len(costs) // 2]


def warm(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                sha256_stream(stream)


def compare(size_bytes: int, percent: int, repeat: int) -> None:
    with tempfile.TemporaryDirectory(prefix="llava-pack-parity-") as name:
        folder = Path(name)
        names = contents(folder, size_bytes)
        ways = {
            f"protect, {percent} %": own("--protect", name, "--percent", str(percent)),
            "sha256sum": ["sha256sum", *names],
            "openssl dgst -sha256": ["openssl", "dgst", "-sha256", *names],
        }
        found: dict[str, list[Cost]] = {way: [] for way in ways}
        for _ in range(repeat):
            for way, command in ways.items():
                warm(folder)
                found[way].append(cost(command, folder))
        plan = plan_volumes(size_bytes, percent)
        print(f"\n{size_bytes / 1e6:.0f} MB: {plan}")
        ours, *others = (middle(costs) for costs in found.values())
        for way, one in zip(ways, (ours, *others), strict=True):
            ratio = ours.cpu_s / one.cpu_s
            print(
                f"{way:26} {one.wall_s:6.2f} s wall, {one.cpu_s:6.2f} s CPU, "
                f"{one.peak_bytes / 1e6:5.0f} MB; protect takes {ratio:.2f} of its CPU"
            )
        walls = [one.wall_s for one in found[next(iter(ways))]]
        print(f"protect: wall from {min(walls):.2f} to {max(walls):.2f} s")
        shutil.rmtree(folder / "parity", ignore_errors=True)
        if size_bytes <= 1_000_000_000:
            by_blocks(folder, size_bytes, percent)
        protect_all(folder, percent)
        repair(folder, names)


def by_blocks(folder: Path, size_bytes: int, percent: int) -> None:
    """Print what other numbers of blocks would cost: par2's own sums are the floor."""
    program, inside = str(par2_program()), ["-R", "-q", "-q", "-m512", "-T1", "-n1"]
    for blocks in BLOCKS:
        warm(folder)
        sizes = [f"-s{-(-size_bytes // blocks // 4) * 4}", f"-c{max(1, blocks * percent // 100)}"]
        with tempfile.TemporaryDirectory() as to:
            command = [program, "create", f"-B{folder}", *inside, *sizes, "--", f"{to}/x.par2"]
            took = cost([*command, "model", "licenses"], folder)
        print(f"par2 with {blocks:5} blocks: {took.cpu_s:6.2f} s CPU, {took.wall_s:6.2f} s wall")


def repair(folder: Path, names: list[str]) -> None:
    shard, small = names[0], names[-1]
    wanted = []
    for path in (shard, small):
        with (folder / path).open("rb") as stream:
            digest = sha256_stream(stream)
        size = (folder / path).stat().st_size
        wanted.append(WantedFile(path=path, size_bytes=size, sha256=digest))
    with (folder / shard).open("r+b") as stream:
        stream.seek(SHARD_BYTES // 2)
        byte = stream.read(1)
        stream.seek(SHARD_BYTES // 2)
        stream.write(bytes([byte[0] ^ 1]))
    (folder / small).unlink()
    warm(folder)
    with tempfile.TemporaryDirectory() as scratch:
        began_s = time.monotonic()
        rebuilt = rebuild(par2_program(), folder, wanted, Path(scratch), Silent())
        assert len(rebuilt.files) == len(wanted), rebuilt.said
        took_s = time.monotonic() - began_s
    print(f"rebuild of a shard and a small file: {took_s:.2f} s wall")


def protect_all(folder: Path, percent: int) -> None:
    shutil.rmtree(folder / "parity", ignore_errors=True)
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    protect(folder, paths, percent, Silent())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, nargs="+", default=[800, 4000])
    parser.add_argument("--percent", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--protect", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.protect is not None:
        protect_all(options.protect, options.percent)
        return
    shown = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in shown if line.startswith("model name")), "")
    flags = next((line.split() for line in shown if line.startswith("flags")), [])
    has = [flag for flag in ("sha_ni", "avx2", "avx512bw", "gfni") if flag in flags]
    print(f"{model or platform.machine()}, {os.cpu_count()} cores, {' '.join(has)}")
    for megabytes in options.mb:
        compare(megabytes * 1_000_000, options.percent, options.repeat)


if __name__ == "__main__":
    main()
