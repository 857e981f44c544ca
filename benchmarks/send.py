"""How `llava-pack send` compares with scp, over an sshd on loopback: ratios of one run.

    python benchmarks/send.py --gb 2 --repeat 5

A bundle of shards, wheels and small files as a real one has them. Fresh: beside `scp -r`, which
hashes nothing, and beside `scp -r` and `sha256sum -c`, which does as much as `send`, in turns.
After a cut: the bytes that travel against those that were missing. An upgrade: the bytes that
travel against the one wheel that changed; the store has the rest.
"""

import argparse
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llava_pack.client.remote_host import RemoteHost
from llava_pack.client.sending.cargo import read_cargo
from llava_pack.client.sending.send import BackOff, SendRequest, Sent, send_bundle
from llava_pack.format.errors import NetworkError
from llava_pack.format.progress import Silent
from llava_pack.format.sums import SUMS_NAME
from tests.support.bundle import BundleSimulator
from tests.support.cut_tunnel import cut_tunnel
from tests.support.remote import TRANSPORTS, login_to, reached
from tests.support.sshd import LoopbackSshd

WHEEL_BYTES = 30_000_000
MOST_RANDOM_BYTES = 250_000_000
"""Of `randbytes`, whose bits are counted in a C int."""
SCPS = ("scp -r", "scp -r, sha256sum -c")


def contents(size_bytes: int, wheel: bytes) -> dict[str, bytes]:
    draw = random.Random(1)
    shards = max(4, math.ceil(size_bytes / MOST_RANDOM_BYTES))
    found = {
        f"model/tiny-llava/shard-{n}.safetensors": draw.randbytes(size_bytes // shards)
        for n in range(shards)
    }
    found |= {f"wheels/w{n}-1-py3-none-any.whl": draw.randbytes(200_000) for n in range(60)}
    found |= {f"licenses/l{n}/LICENSE": draw.randbytes(10_000) for n in range(300)}
    return {**found, "wheels/changed-1-py3-none-any.whl": wheel}


def store(bundle: Path, prefix: Path) -> None:
    """Make a store that has a bundle, as an installation leaves it."""
    for file in read_cargo(bundle).files:
        place = prefix / "store/sha256" / file.sha256[:2] / file.sha256
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / file.path, place)


def send(host: RemoteHost, bundle: Path, to: Path, prefix: Path) -> Sent:
    request = SendRequest(cargo=read_cargo(bundle), to=str(to), prefix=str(prefix))
    return send_bundle(host, request, Silent(), BackOff(wait=lambda _: None))


def timed(work: Callable[[], object]) -> float:
    os.sync()
    began_s = time.monotonic()
    work()
    return time.monotonic() - began_s


def scp(sshd: LoopbackSshd, bundle: Path, to: Path) -> None:
    options = [part for one in sshd.options for part in ("-o", one)]
    there = f"{sshd.user}@127.0.0.1:{to}"
    command = ["scp", "-q", "-r", "-P", str(sshd.port), *options, str(bundle), there]
    subprocess.run(command, check=True)


def fresh(sshd: LoopbackSshd, bundle: Path, folder: Path, kind: str) -> float:
    with reached(kind, login_to(sshd)) as host:
        took_s = timed(lambda: send(host, bundle, folder / "fresh", folder / "none"))
    shutil.rmtree(folder / "fresh")
    return took_s


def copied(sshd: LoopbackSshd, bundle: Path, folder: Path) -> dict[str, float]:
    there = folder / "copied"
    took_s = timed(lambda: scp(sshd, bundle, there))
    check = ["sha256sum", "--quiet", "-c", SUMS_NAME]
    hashed_s = timed(lambda: subprocess.run(check, cwd=there, check=True))
    shutil.rmtree(there)
    return dict(zip(SCPS, (took_s, took_s + hashed_s), strict=True))


def missing_bytes(bundle: Path, there: Path) -> int:
    cargo = read_cargo(bundle)
    rest = 0
    for file in cargo.files:
        part = there / ".incoming" / file.sha256
        inside = there / ".incoming/new" / file.path
        if (there / file.path).exists() or (
            inside.exists() and inside.stat().st_size == file.size_bytes
        ):
            continue
        rest += file.size_bytes - (part.stat().st_size if part.exists() else 0)
    return rest


def after_cuts(sshd: LoopbackSshd, bundle: Path, folder: Path, total_bytes: int) -> list[float]:
    """Return, for cuts at several places, what travels after each over what was missing."""
    ratios = []
    for share in (0.01, 0.2, 0.5, 0.8, 0.97):
        there = folder / f"cut{share}"
        request = SendRequest(cargo=read_cargo(bundle), to=str(there))
        with (
            cut_tunnel(sshd.port, [int(total_bytes * share)]) as tunnel,
            reached("shared", login_to(sshd, port=tunnel.port)) as host,
        ):
            try:
                send_bundle(host, request, Silent(), BackOff(attempts=0))
            except NetworkError as error:
                print(f"  cut at {share:.0%}: {error}")
        time.sleep(1)  # the receiver writes what it has
        missing = missing_bytes(bundle, there)
        with reached("shared", login_to(sshd)) as host:
            done = send(host, bundle, there, folder / "none")
        ratios.append(done.sent_bytes / missing)
        shutil.rmtree(there)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gb", type=float, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    size_bytes = int(options.gb * 1e9)
    draw = random.Random(2)
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        folder = Path(name)
        (folder / "sshd").mkdir()
        bundle, newer = folder / "bundle", folder / "newer"
        BundleSimulator(extra=contents(size_bytes, draw.randbytes(WHEEL_BYTES))).write(bundle)
        total_bytes = sum(file.size_bytes for file in read_cargo(bundle).files)
        with LoopbackSshd(folder / "sshd", {"Subsystem": "sftp internal-sftp"}) as sshd:
            times: dict[str, list[float]] = {}
            for _ in range(options.repeat):
                took = copied(sshd, bundle, folder)
                took |= {kind: fresh(sshd, bundle, folder, kind) for kind in TRANSPORTS}
                for kind, took_s in took.items():
                    times.setdefault(kind, []).append(took_s)
            middle = {kind: statistics.median(took) for kind, took in times.items()}
            for kind, all_s in times.items():
                rates = ", ".join(f"{total_bytes / one / 1e6:.0f}" for one in all_s)
                beside = ", ".join(f"{middle[other] / middle[kind]:.2f}" for other in SCPS)
                print(f"{kind:20} {rates} MB/s; medians, of both scp: {beside}")
            ratios = after_cuts(sshd, bundle, folder, total_bytes)
            print(f"after a cut: {max(ratios):.4f} x what was missing, at most")
            store(bundle, folder / "prefix")
            changed = draw.randbytes(WHEEL_BYTES)
            shutil.rmtree(bundle)
            BundleSimulator(extra=contents(size_bytes, changed)).write(newer)
            with reached("shared", login_to(sshd)) as host:
                done = send(host, newer, folder / "there", folder / "prefix")
            print(f"upgrade: {done.sent_bytes / WHEEL_BYTES:.4f} x the wheel that changed")


if __name__ == "__main__":
    main()
