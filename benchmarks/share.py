"""What a second bundle of the same model takes of a disk, and of time.

`.venv/bin/python benchmarks/share.py FOLDER [--hidden N --layers N]`: a random checkpoint and two
bundles of it, of two releases, on the disk of FOLDER, where the cache is too. What was fetched
before is copied there from the account's own cache. Each line tells seconds, and by how much the
free room shrank, after a flush. Another code is measured with its folder in PYTHONPATH.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RECIPE = """
name = "random"
title = "A random LLaVA"
[licence]
id = "Apache-2.0"
url = "https://www.apache.org/licenses/LICENSE-2.0"
[model]
source = "dir:checkpoint/llava-v1-random"
name = "llava-v1-random"
conv_mode = "llava_v1"
[vision_tower]
source = "dir:checkpoint/clip-tiny"
name = "clip-tiny"
[runtime]
python = "3.11"
cuda = "none"
[serving]
precision = "fp32"
context_tokens = 512
slots = 1
"""


def free_bytes(folder: Path) -> int:
    """Return what is free on a disk once all is written."""
    subprocess.run(["sync", "-f", folder], check=True)
    facts = os.statvfs(folder)
    return facts.f_bfree * facts.f_frsize


def build(folder: Path, name: str, release: int) -> dict[str, object]:
    """Build a bundle and return what its card says."""
    environ = {"LLAVA_PACK_CACHE": str(folder / "cache"), "SOURCE_DATE_EPOCH": str(release)}
    command = [sys.executable, "-m", "llava_pack", "build", str(folder / "random.toml")]
    command += ["--out", str(folder / name), "--python", "target", "--no-record", "--json"]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environ}
    )
    card: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return card


def main() -> None:
    """Build twice, and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hidden", default="768")
    parser.add_argument("--layers", default="12")
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    size = ["--hidden", given.hidden, "--layers", given.layers]
    script = ROOT / "benchmarks" / "checkpoint.py"
    subprocess.run(
        [sys.executable, script, folder / "checkpoint", *size],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    (folder / "random.toml").write_text(RECIPE)
    own = Path.home() / ".cache" / "llava-pack"
    if own.is_dir():
        shutil.copytree(own, folder / "cache", ignore=shutil.ignore_patterns("bundle*", "deploy*"))
    for name, release in (("one", 1_700_000_000), ("two", 1_800_000_000)):
        before, began = free_bytes(folder), time.monotonic()
        card = build(folder, name, release)
        took_s, taken = time.monotonic() - began, before - free_bytes(folder)
        megabytes = {key: round(int(str(card.get(key, 0))) / 1e6) for key in _SIZES}
        print(f"{name}: {took_s:.1f} s, took {taken / 1e6:.0f} MB, {megabytes}", flush=True)


_SIZES = ("size_bytes", "shared_bytes")

if __name__ == "__main__":
    main()
