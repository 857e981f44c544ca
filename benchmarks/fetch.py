"""How fast `download_all` is beside a plain parallel download that hashes.

Run: python benchmarks/fetch.py [--mib 512] [--files 8] [--rounds 3]

The server is a loopback Hub in its own process; both sides write to the same disk. The plain
download has no resume, no validators, no flush to disk and no checks: it is the ceiling.
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

from llava_pack.fetch.cache import Cache  # noqa: E402 - runs from a checkout
from llava_pack.fetch.download import RemoteFile, download_all  # noqa: E402
from llava_pack.fetch.hub import remote_file, resolve_repo  # noqa: E402

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
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80)
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


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
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
            repo = resolve_repo("bench/model")
            files = [remote_file(repo, file) for file in repo.files]
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
