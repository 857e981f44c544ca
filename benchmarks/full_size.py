"""A bundle of full size from the build to its upgrade, with what each step takes.

    python benchmarks/full_size.py --folder /big/disk --layers 32

As root, with 65 GB free, a package index that has torch for CUDA 12 as wheels, and 24 GB of memory.
A checkpoint in the shape of LLaVA-1.5-7B (13.5 GB of fp16 noise) is built with the packages of a
CUDA 12 server, carried over three media of 8 GB (ext4 on loop devices, one after the other),
collected with a flipped byte on the second one, repaired by what `carry --need` brings, installed
with its smoke test on the CPU in 4 bits, and upgraded by one wheel. No GPU is here: preflight finds
a program nvidia-smi that says what a server says, and torch finds no device. The model is noise, so
its answers are accepted by name.

For each step: wall time, the largest resident memory of any of its processes, and how much the disk
grew while it ran, at most.
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.quantize import entries_of, without_weights
from llava_pack.checkpoint.safetensors_file import render_header
from tests.support.bundle import BASE_PYTHON, CHECKOUT

MEDIUM_BYTES = 8_000_000_000
BLOCK = 1 << 26
ANSWER = "noise"
NVIDIA_SMI = Path("/usr/local/bin/nvidia-smi")
GPU = "NVIDIA A10G, 535.183.01, 8.6, 23028, 22000, [N/A]"
RECIPE = """\
name = "full-size"
title = "Noise in the shape of LLaVA 1.5 7B"

[licence]
id = "Apache-2.0"
url = "https://www.apache.org/licenses/LICENSE-2.0"

[model]
source = "dir:{model}"
name = "llava-full-size"
conv_mode = "llava_v1"

[vision_tower]
source = "dir:{tower}"
name = "clip-full-size"

[runtime]
requirements = [{more}]

[serving]
precision = "nf4"
context_tokens = 1024
slots = 1

[[known_answers]]
name = "{answer}"
picture = "{picture}"
prompt = "What is in the picture?"
contains = ["nothing that noise would say"]
"""


class Steps:
    """Runs commands, and says what each took."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, name: str, *command: str | Path, code: int = 0) -> str:
        """Run a command of one step, and return what it printed."""
        used = [self._used()]
        before = used[0]
        done = threading.Event()

        def watch() -> None:
            while not done.wait(1.0):
                used.append(self._used())

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        began_s = time.monotonic()
        env = {**os.environ, "PATH": f"{Path(BASE_PYTHON).parent}:{os.environ['PATH']}"}
        log = self._folder / "log"
        with log.open("wb") as out:
            words = [str(word) for word in command]
            process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=env)
            _, status, usage = os.wait4(process.pid, 0)
        took_s = time.monotonic() - began_s
        done.set()
        watching.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        said = log.read_text(errors="replace")
        if process.returncode != code:
            raise SystemExit(f"{name}: exit {process.returncode}\n{said[-4000:]}")
        grown = (max([*used, self._used()]) - before) / 1e9
        print(
            f"{name:<34} {took_s:8.1f} s  {usage.ru_maxrss / 1e6:6.2f} GB memory  "
            f"{grown:6.2f} GB disk",
            flush=True,
        )
        return said

    def _used(self) -> int:
        return shutil.disk_usage(self._folder).used


def checkpoint(folder: Path, layers: int) -> None:
    """Write `model` and `tower`; no two 64 MB of the weights are alike."""
    import numpy as np

    model = without_weights(folder, layers=layers)
    entries = entries_of(layers)
    left = sum(entry.size_bytes for entry in entries)
    draw = np.random.default_rng(0)
    with (model / "model.safetensors").open("wb") as out:
        out.write(render_header(entries))
        while left:
            noise = (draw.standard_normal(BLOCK // 2, np.float32) * 0.02).astype(np.float16)
            left -= out.write(noise.tobytes()[:left])


def recipe(folder: Path, name: str, more: str) -> Path:
    path = folder / name
    pictures = CHECKOUT / "bundles" / "known-answers"
    shutil.copy(pictures / "red-circle.png", folder / "picture.png")
    text = RECIPE.format(
        model=folder / "model", tower=folder / "tower", more=more, answer=ANSWER,
        picture="picture.png",
    )  # fmt: skip
    path.write_text(text)
    return path


@contextmanager
def medium(image: Path) -> Iterator[Path]:
    """Give an ext4 file system of 8 GB."""
    with image.open("wb") as stream:
        stream.truncate(MEDIUM_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    point = image.with_suffix(".mounted")
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)
        image.unlink()


@contextmanager
def driver() -> Iterator[None]:
    """Have preflight find the driver of a server."""
    if NVIDIA_SMI.exists():
        raise SystemExit(f"{NVIDIA_SMI} is there: this run is for a machine without a GPU")
    NVIDIA_SMI.write_text(f"#!/bin/sh\necho '{GPU}'\n")
    NVIDIA_SMI.chmod(0o755)
    try:
        yield
    finally:
        NVIDIA_SMI.unlink()


def flip(folder: Path) -> None:
    """Flip a bit in the middle of the largest file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)
    with largest.open("r+b") as stream:
        stream.seek(largest.stat().st_size // 2)
        (byte,) = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))


def identity(bundle: Path) -> str:
    return hashlib.sha256((bundle / "SHA256SUMS").read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--build", action="append", default=[], help="more options of build")
    options = parser.parse_args()
    folder = options.folder
    folder.mkdir(parents=True)
    print(f"{platform.machine()}, {os.cpu_count()} processors, {options.layers} layers", flush=True)
    # in a process of its own: a program inherits the peak of memory of what started it
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        apart.submit(checkpoint, folder, options.layers).result()
    os.environ["LLAVA_PACK_CACHE"] = str(folder / "cache")
    with driver():
        measure(folder, Steps(folder), options.build)


def measure(folder: Path, steps: Steps, more: list[str]) -> None:
    program = Path(sys.executable).with_name("llava-pack")
    one, two, prefix = folder / "one", folder / "two", folder / "prefix"
    build = [program, "build", "--cuda", "12", "--no-record", *more]
    steps.run("build", *build, recipe(folder, "one.toml", ""), "--out", one)
    steps.run("verify", program, "verify", one, "--expect", identity(one))
    install = ["sh", CHECKOUT / "installers" / "install.sh", "--collect", "--prefix", prefix]
    install += ["--expect", identity(one), "--accept-answer", ANSWER]
    carry = [program, "carry", one, "--media", str(MEDIUM_BYTES)]
    for number in (1, 2, 3):
        with medium(folder / "medium") as disk:
            steps.run(f"carry, medium {number}", *carry, "--to", disk, "--medium", str(number))
            (there,) = (path for path in disk.iterdir() if path.name != "lost+found")
            if number == 2:
                flip(there)
            code = 4 if number > 1 else 0
            steps.run(f"collect, medium {number}", *install, "--bundle", there, code=code)
    need = folder / "prefix" / "need.json"
    repair = ["--to", folder / "stick", "--need", need]
    steps.run("carry --need", program, "carry", one, *repair)
    print(f"  {sum(path.stat().st_size for path in (folder / 'stick').rglob('*'))} bytes")
    stick = folder / "stick" / "full-size-repair"
    steps.run("collect the repair, install", *install, "--bundle", stick)
    steps.run("build, one other wheel", *build, recipe(folder, "two.toml", '"certifi<2026"'),
              "--out", two)  # fmt: skip
    have = folder / "have"
    have.write_text(subprocess.check_output([prefix / "bin/llava-pack", "have"], text=True))
    update = ["--to", folder / "update", "--have", have]
    steps.run("carry --have", program, "carry", two, *update)
    print(f"  {sum(path.stat().st_size for path in (folder / 'update').rglob('*'))} bytes")
    upgrade = [prefix / "bin/llava-pack", "install", folder / "update" / "full-size-update"]
    upgrade += ["--expect", identity(two), "--accept-answer", ANSWER]
    steps.run("upgrade", *upgrade)


if __name__ == "__main__":
    main()
