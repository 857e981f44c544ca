"""How fast `download_all` is beside a plain parallel download that hashes.

Run: python benchmarks/fetch.py [--mib 512] [--files 8] [--rounds 3]
     python benchmarks/fetch.py --wheels [--rounds 2]

The server is a loopback Hub in its own process; with --wheels it is the configured package index,
and the files are the CUDA closure of a recipe. Both sides write to the same disk, in turns. The
plain download has no resume, no validators, no flush to disk and no checks: it is the ceiling.
"""

import argparse
import hashlib
import http.client
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from llava_pack.assemble.requirements import target_requirements  # noqa: E402 - from a checkout
from llava_pack.assemble.runtime_files import remote_wheel  # noqa: E402
from llava_pack.fetch.cache import Cache  # noqa: E402
from llava_pack.fetch.credentials import Credentials  # noqa: E402
from llava_pack.fetch.download import RemoteFile, download_all  # noqa: E402
from llava_pack.fetch.hub import HubSource  # noqa: E402
from llava_pack.fetch.sizes import remote_sizes  # noqa: E402
from llava_pack.lock.indexes import configured_indexes  # noqa: E402
from llava_pack.lock.platform import parse_platform  # noqa: E402
from llava_pack.lock.resolve import resolve  # noqa: E402
from llava_pack.lock.torch_build import choose_torch  # noqa: E402
from llava_pack.recipe import find_recipe, read_recipe  # noqa: E402

CONNECTIONS = 8


@contextmanager
def loopback_hub(folder: Path) -> Iterator[str]:
    command = [sys.executable, ROOT / "tests/support/hub.py", "--repo", f"bench/model={folder}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def plain(file: RemoteFile, into: Path) -> str:
    parts = urlsplit(file.url)
    assert parts.hostname is not None
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port)
    connection.request("GET", parts.path)
    response, digest = connection.getresponse(), hashlib.sha256()
    with (into / hashlib.sha256(file.url.encode()).hexdigest()).open("wb") as out:
        while chunk := response.read(1 << 20):
            digest.update(chunk)
            out.write(chunk)
    connection.close()
    return digest.hexdigest()


def plain_all(files: list[RemoteFile], into: Path) -> None:
    into.mkdir()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(lambda file: plain(file, into), files))


def ours(files: list[RemoteFile], into: Path) -> None:
    download_all(files, Cache(into), connections=CONNECTIONS)


def seconds(work: Callable[[list[RemoteFile], Path], None], files: list[RemoteFile]) -> float:
    with tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        work(files, Path(name) / "out")
        return time.perf_counter() - started


def closure() -> list[RemoteFile]:
    """Return the wheels of llava-v1.5-7b for a current GPU server."""
    platform = parse_platform("x86_64-manylinux_2_28", "3.11")
    recipe = read_recipe(find_recipe("llava-v1.5-7b")).value
    torch = choose_torch("13", platform, [], backend=None)
    indexes = configured_indexes()
    wheels = resolve(target_requirements(recipe, torch), platform, indexes)
    who = Credentials(indexes, os.environ)
    return [remote_wheel(one, who) for one in wheels if one.url.startswith("http")]


def measure_wheels(rounds: int) -> int:
    files = closure()
    total = sum(size or 0 for size in remote_sizes(files, Cache()).values())
    found = []
    for number in range(rounds):
        both = {"plain": plain_all, "ours": ours}
        order = list(both) if number % 2 else list(reversed(both))
        took = {name: seconds(both[name], files) for name in order}
        found.append(took["plain"] / took["ours"])
        rates = [total / took[name] / 1e6 for name in both]
        print("plain {:6.0f} MB/s  download_all {:6.0f} MB/s".format(*rates), end="  ")
        print(f"ratio {found[-1]:.2f}", flush=True)
    median = statistics.median(found)
    print(
        f"{len(files)} wheels, {total} bytes, median ratio {median:.2f}, {CONNECTIONS} connections"
    )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wheels", action="store_true")
    options = parser.parse_args()
    if options.wheels:
        return measure_wheels(options.rounds)
    folder = Path(tempfile.mkdtemp())
    try:
        block = os.urandom(1 << 20)
        for number in range(options.files):
            with (folder / f"shard-{number}.bin").open("wb") as out:
                for _ in range(options.mib // options.files):
                    out.write(block)
                out.write(str(number).encode())
        with loopback_hub(folder) as url:
            os.environ["HF_ENDPOINT"] = url
            listing = HubSource(repo_id="bench/model").list()
            files = [listing.pinned.remote_file(*file) for file in listing.files.items()]
            rounds = [
                (seconds(plain_all, files), seconds(ours, files)) for _ in range(options.rounds)
            ]
    finally:
        shutil.rmtree(folder)
    for plain_s, ours_s in rounds:
        rates = options.mib / plain_s, options.mib / ours_s
        print("plain {:6.0f} MiB/s  download_all {:6.0f} MiB/s".format(*rates), end="  ")
        print(f"ratio {plain_s / ours_s:.2f}")
    median = statistics.median(p / o for p, o in rounds)
    print(f"median ratio {median:.2f}, {CONNECTIONS} connections")
    return 0


if __name__ == "__main__":
    sys.exit(main())
