"""What an install costs, beside one read of the bundle and `uv pip install --offline` alone.

`.venv/bin/python benchmarks/install.py [--bundle DIR --id ID] [--rounds N]`: without a bundle the
demo's is built. Each round measures, on the disk of TMPDIR, flushed before, caches warm: every file
hashed by one process a core; uv alone, into a new environment from an empty cache; the install, its
bytes moved off the medium (`--consume`), linked (as an account that is not root), and copied; each
way beside a read and a uv of its own.

What the model takes to answer its known questions is told apart: it is no part of moving bytes.
Meanwhile an install removes uv's cache and flushes, which uv alone does not, so doing both after uv
is timed too, and every ratio is told twice: as it is, and had the install waited for that.

No environment is removed before the end: whenever ext4 makes a file, it goes through the inodes
freed in the last five minutes one by one, many seconds of CPU for either side. So run it on a disk
where nobody removed many files just before. Source: linux, fs/ext4/ialloc.c, recently_deleted.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
UV_SHARE = 1.1
WAYS = {"moved": ["--consume"], "linked": [], "copied": []}
AS_A_USER = ["unshare", "-U", "--map-user=1000", "--map-group=1000"]


def build(out: Path) -> str:
    """Build the demo bundle and return its id."""
    command = [sys.executable, "-m", "llava_pack", "build", "demo", "--out", str(out), "--json"]
    done = subprocess.run(
        [*command, "--python", "target"], check=True, stdout=subprocess.PIPE, text=True
    )
    return str(json.loads(done.stdout.splitlines()[-1])["bundle_id"])


def seconds(command: list[str], **more: Any) -> float:
    """Run a command to its end and return how long it took."""
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **more)
    return time.monotonic() - began


def read_s(bundle: Path) -> float:
    """Hash every file, one process a core."""
    workers = os.cpu_count() or 1
    line = f"find . -type f -print0 | xargs -0 -P {workers} -n 8 sha256sum"
    return seconds(["sh", "-c", line], cwd=bundle)


def uv_s(bundle: Path, folder: Path) -> tuple[float, float]:
    """Have uv alone make an environment of the bundle's wheels, then flush; return both times."""
    uv, python = str(bundle / "runtime/uv"), str(folder / "venv/bin/python")
    env = {**os.environ, "UV_CACHE_DIR": str(folder / "cache")}
    subprocess.run([uv, "-q", "venv", "--no-config", str(folder / "venv")], check=True, env=env)
    wheels = [str(path) for path in sorted((bundle / "wheels").glob("*.whl"))]
    install = ["pip", "install", "--no-config", "--offline", "--no-index", "--no-deps"]
    install += ["--link-mode", "hardlink"]
    os.sync()
    took = seconds([uv, "-q", *install, "--python", python, *wheels], env=env)
    return took, seconds(["sync"])


def install_s(bundle: Path, bundle_id: str, folder: Path, way: str) -> tuple[float, float, float]:
    """Install a copy of the bundle; return its time, that of the known answers, and that again."""
    medium, prefix = folder / "medium", folder / "prefix"
    shutil.copytree(bundle, medium)
    for path in (medium, *medium.rglob("*")):
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    os.sync()
    user = AS_A_USER if way == "linked" and os.geteuid() == 0 else []
    if way == "copied":
        medium.chmod(0o775)
    command = [*user, "sh", str(medium / "install.sh"), "--bundle", str(medium)]
    command += ["--expect", bundle_id, "--prefix", str(prefix), *WAYS[way]]
    took = seconds(command, stderr=subprocess.DEVNULL)
    again = seconds(command, stderr=subprocess.DEVNULL)
    [receipt] = prefix.glob("models/*/current/receipt.json")
    facts = json.loads(receipt.read_text())
    if way != "copied":
        weights = sum(facts["placed"].get(one, 0) for one in ("moved", "linked"))
        models = sum(path.stat().st_size for path in (bundle / "model").rglob("*.safetensors"))
        assert weights >= models, f"{way}: {facts['placed']}"
    smoke_s = facts["step_ms"]["smoke"] / 1000
    return took - smoke_s, smoke_s, again


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--id")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llava-pack-") as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)
        bundle = options.bundle or folder / "bundle"
        bundle_id = options.id or build(bundle)
        size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        figures: defaultdict[str, list[float]] = defaultdict(list)
        for turn in range(options.rounds):
            for way in WAYS:  # each beside a uv of its own: what a disk gives changes by the minute
                place = folder / f"{turn}-{way}"
                read, (uv, flush) = read_s(bundle), uv_s(bundle, place / "uv")
                took, smoke, again = install_s(bundle, bundle_id, place, way)
                after = flush + seconds(["rm", "-rf", str(place / "uv" / "cache")])
                bound = read + UV_SHARE * uv
                for name, value in {
                    "one read": read,
                    "uv alone": uv,
                    "a flush and removing the cache, after uv": after,
                    "known answers": smoke,
                    "install again": again,
                    f"install, {way}": took,
                    f"install, {way}: ratio": took / bound,
                    f"install, {way}: ratio, had it waited": (took + after) / bound,
                }.items():
                    figures[name].append(value)
        machine = platform.processor() or platform.machine()
        print(f"{machine}, {os.cpu_count()} cores, {size / 1e6:.0f} MB; median, least, most")
        for name, values in figures.items():
            middle = statistics.median(values)
            print(f"| {name} | {middle:.2f} | {min(values):.2f} | {max(values):.2f} |")


if __name__ == "__main__":
    main()
