"""How fast `llava-pack verify` is, beside hashing processes and peers on the same files.

    python benchmarks/verify.py [--gb 12] [--folder DIR] [--peers DIR] [--repeat 3]

Writes a bundle whose shards hold random bytes, which are cached then, and times each way in turn,
`--repeat` times; the best counts. Every way is a process, its start included; processor seconds are
told beside the time, because they do not depend on what else the machine does. Ours hashes
each file once, checks the whole list and the manifest. `--peers` is a folder of virtual
environments named airgap-bundle, modelferry and model-signing, each with that package. Prints one
JSON object: seconds, bytes per second, and the peak memory of each way.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from llava_pack.format.manifest import FileEntry, render_manifest  # noqa: E402
from tests.support.bundle import BundleSimulator, seal  # noqa: E402
from tests.support.keys import new_publisher  # noqa: E402

SHARD_BYTES = 1_000_000_000
Command = Sequence[str | Path]


@dataclass(frozen=True)
class Figure:
    """One way: the best of its runs."""

    took_s: float
    cpu_s: float
    """Of all processors together."""
    peak_mb: int
    """Of the largest process."""


def main(total_bytes: int, folder: Path, peers: Path | None, repeat: int) -> None:
    """Measure and print."""
    bundle = folder / "bundle"
    identity = make_bundle(bundle, total_bytes)
    files = [path for path in bundle.rglob("*") if path.is_file()]
    size_bytes = sum(path.stat().st_size for path in files)
    ways = {"llava-pack verify": ours(bundle, identity), "sha256sum -c": (sums_of(bundle), bundle)}
    for count in range(1, (os.cpu_count() or 1) + 1):
        for name, program in (("sha256sum", "sha256sum"), ("openssl", "openssl dgst -sha256")):
            ways[f"{count} x {name}"] = (parallel(files, count, program), bundle)
    if peers is not None:
        ways |= of_peers(peers, bundle, folder)
    runs: dict[str, list[Figure]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, (command, cwd) in ways.items():
            runs[name].append(timed(command, cwd))
    figures = {name: best(found) for name, found in runs.items()}
    hashing = {name: one.took_s for name, one in figures.items() if " x " in name}
    fastest = min(hashing, key=lambda name: hashing[name])
    mine = figures["llava-pack verify"].took_s
    coreutils = min(took for name, took in hashing.items() if "sha256sum" in name)
    report = {
        "bytes": size_bytes,
        "files": len(files),
        "cpus": os.cpu_count(),
        "ways": {name: shown(one, size_bytes) for name, one in figures.items()},
        "best_hashing": fastest,
        "ratio_to_best_hashing": round(hashing[fastest] / mine, 2),
        "ratio_to_best_sha256sum": round(coreutils / mine, 2),
    }
    print(json.dumps(report, indent=1))


def shown(figure: Figure, size_bytes: int) -> dict[str, float]:
    """Return a figure with its rate."""
    rate = round(size_bytes / figure.took_s / 1e6)
    seconds = {"seconds": round(figure.took_s, 2), "cpu_seconds": round(figure.cpu_s, 2)}
    return {**seconds, "mb_per_s": rate, "peak_mb": figure.peak_mb}


def make_bundle(bundle: Path, total_bytes: int) -> str:
    """Write a bundle of about `total_bytes`, and return its id."""
    shutil.rmtree(bundle, ignore_errors=True)
    simulator = BundleSimulator()
    extra = {}
    folder = bundle / "model/tiny-llava"
    folder.mkdir(parents=True)
    for number in range(max(1, total_bytes // SHARD_BYTES)):
        path = folder / f"shard-{number:05}.safetensors"
        with path.open("wb") as stream:
            left = min(SHARD_BYTES, total_bytes)
            while left > 0:
                block = os.urandom(min(left, 1 << 24))
                left -= stream.write(block)
        extra[path.relative_to(bundle).as_posix()] = path
    _write_around(simulator, bundle, extra)
    return seal(bundle)


def _write_around(simulator: BundleSimulator, bundle: Path, shards: dict[str, Path]) -> None:
    """Write everything but the shards, and a manifest that has their digests."""
    contents = simulator.payload()
    for name, data in contents.items():
        path = bundle / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    manifest = simulator.manifest(contents)
    entries = list(manifest.files)
    for name, path in shards.items():
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size, origin = path.stat().st_size, {"kind": "text"}
        one = FileEntry(path=name, size_bytes=size, mode=0o644, sha256=digest, origin=origin)
        entries.append(one)
    data = render_manifest(replace(manifest, files=tuple(entries)))
    (bundle / "MANIFEST.json").write_bytes(data)


def ours(bundle: Path, identity: str) -> tuple[Command, Path]:
    """Return the command of this package."""
    program = Path(sys.executable).with_name("llava-pack")
    return ([program, "verify", bundle, "--expect", identity, "--json"], bundle)


def sums_of(_: Path) -> Command:
    """Return coreutils' own check of the list."""
    return ["sha256sum", "--quiet", "-c", "SHA256SUMS"]


def parallel(files: Sequence[Path], count: int, program: str) -> Command:
    """Return a command that hashes every file, `count` processes at a time, large files first."""
    names = sorted(files, key=lambda path: -path.stat().st_size)
    listing = "\\0".join(map(str, names))
    return ["sh", "-c", f"printf '{listing}' | xargs -0 -n 1 -P {count} {program} >/dev/null"]


def of_peers(peers: Path, bundle: Path, folder: Path) -> dict[str, tuple[Command, Path]]:
    """Return how each installed peer verifies the same files, after it packed or signed them."""
    found: dict[str, tuple[Command, Path]] = {}
    makers: dict[str, Callable[[Path, Path, Path], Command]] = {
        "model-signing": model_signing,
        "modelferry": modelferry,
        "airgap-bundle": airgap_bundle,
    }
    for name, make in makers.items():
        programs = peers / name / "bin"
        if programs.is_dir():
            with contextlib.suppress(subprocess.CalledProcessError):
                found[f"{name} verify"] = (make(programs, bundle, folder), folder)
    return found


def model_signing(programs: Path, bundle: Path, folder: Path) -> Command:
    """Sign the folder with a P-256 key."""
    keys = folder / "keys"
    keys.mkdir(exist_ok=True)
    publisher = new_publisher(keys, f"bench-{time.time_ns()}")
    signature, program = folder / "model.sig", programs / "model_signing"
    key = ["--private_key", publisher.signer.key]
    subprocess.run([program, "sign", "key", bundle, "--signature", signature, *key], check=True)
    given = ["--public_key", publisher.public_file]
    return [program, "verify", "key", bundle, "--signature", signature, *given]


def modelferry(programs: Path, bundle: Path, folder: Path) -> Command:
    """Pack the model's folder, fetched from a Hub on loopback."""
    command = [sys.executable, ROOT / "tests/support/hub.py", "--port", "0"]
    command += ["--repo", f"bench/model={bundle / 'model/tiny-llava'}"]
    made = folder / "ferry"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as hub:
        try:
            assert hub.stdout is not None
            endpoint = hub.stdout.readline().strip()
            env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}
            pack = [programs / "modelferry", "pack", "bench/model", "--dest", made]
            subprocess.run([*pack, "--staging", folder / "staging"], env=env, check=True)
        finally:
            hub.terminate()
    found = next(path.parent for path in made.rglob("*manifest*.json"))
    return [programs / "modelferry", "verify", found, "--quiet"]


def airgap_bundle(programs: Path, bundle: Path, folder: Path) -> Command:
    """Build an archive of the shards, as little compressed as it can be."""
    project = folder / "project"
    project.mkdir(exist_ok=True)
    (project / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "0.1"\n')
    lines = ['[bundle]\nname = "x"\nversion = "0.1"', '[platform]\ntargets = ["linux/amd64"]']
    lines += [
        'python = "3.11"',
        "[python]",
        "pyproject = true",
        '[source]\ninclude = ["**/*.py"]',
        '[install]\nprefix = "/opt/x"',
    ]
    for path in sorted((bundle / "model/tiny-llava").glob("shard-*")):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        model = {"uri": f"file:{path}", "name": path.stem, "dest": path.name, "sha256": digest}
        lines += ["[[models]]", *(f'{key} = "{value}"' for key, value in model.items())]
    (project / "airgap.toml").write_text("\n".join(lines) + "\n")
    archive, program = folder / "x.tar.zst", programs / "airgap-bundle"
    build = [program, "build", project, "--out", archive, "--compression", "1", "--no-verify"]
    subprocess.run(build, check=True)
    return [program, "verify", archive]


def timed(command: Command, folder: Path) -> Figure:
    """Run a command once.

    Raises:
        CalledProcessError: it failed.
    """
    # time(1) forks the command from a small process: what this one holds would count as its peak
    with tempfile.NamedTemporaryFile("r", prefix="peak-") as said:
        began = time.perf_counter()
        wrapped = ["time", "-f", "%U %S %M", "-o", said.name, *command]
        subprocess.run(wrapped, cwd=folder, stdout=subprocess.DEVNULL, check=True)
        took_s = time.perf_counter() - began
        user_s, system_s, peak_kb = said.read().split()
    return Figure(took_s, float(user_s) + float(system_s), int(peak_kb) // 1024)


def best(runs: Sequence[Figure]) -> Figure:
    """Return the least time, and the most memory."""
    took_s = min(run.took_s for run in runs)
    return Figure(took_s, min(run.cpu_s for run in runs), max(run.peak_mb for run in runs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=12)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="verify-", dir=options.folder) as made:
        main(int(options.gb * 1e9), Path(made), options.peers, options.repeat)
