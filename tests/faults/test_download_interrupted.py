"""Transfers that break off, at either end, in every way that a network knows."""

import hashlib
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.download import Patience, RemoteFile, Sha256, download_all
from llava_pack.format.errors import FetchError, IntegrityError
from tests.support.loopback import Answer, Asked, Fault, Loopback

QUICK = Patience(attempts=3, backoff_s=0.0, connect_s=60.0, read_s=60.0)
DATA = hashlib.shake_256(b"llava").digest(3_000_000)
HALF = 1_500_000
NAME = "/shard.bin"


class OneFile(Loopback):
    """Serves the same bytes at every path."""

    etag = '"one"'
    data = DATA

    def respond(self, asked: Asked) -> Answer:
        return Answer(body=self.data, headers={"ETag": self.etag}, ranged=True)


@pytest.fixture
def server() -> Iterator[OneFile]:
    with OneFile() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def promised(server: Loopback, name: str = NAME) -> RemoteFile:
    digest = Sha256(hashlib.sha256(DATA).hexdigest())
    return RemoteFile(url=server.url + name, name=name, size_bytes=len(DATA), digest=digest)


def part_bytes(cache: Cache) -> int:
    return sum(part.stat().st_size for part in cache.parts.glob("*.part"))


def fetch(file: RemoteFile, cache: Cache) -> bytes:
    [got] = download_all([file], cache, patience=QUICK).values()
    assert got.sha256 == hashlib.sha256(got.path.read_bytes()).hexdigest()
    assert list(cache.parts.iterdir()) == []
    return got.path.read_bytes()


def leave_half(server: OneFile, cache: Cache, file: RemoteFile | None = None) -> None:
    """Break off every try of a first run, so that a second one finds a part."""
    server.fault(NAME, cut_bytes=[HALF, 0, 0, 0])
    with pytest.raises(FetchError, match="was interrupted"):
        download_all([file or promised(server)], cache, patience=QUICK)
    assert part_bytes(cache) == HALF
    server.heal()
    server.served.clear()
    server.asked.clear()


def child(url: str, root: Path) -> subprocess.Popen[str]:
    """Fetch `url` in a process of its own; it prints each count of bytes, then the digest."""
    code = f"""
        from pathlib import Path
        from llava_pack.fetch.cache import Cache
        from llava_pack.fetch.download import RemoteFile, Sha256, download_all
        from llava_pack.format.progress import Silent
        class Told(Silent):
            def advance(self, size_bytes):
                print(size_bytes, flush=True)
        digest = Sha256({hashlib.sha256(DATA).hexdigest()!r})
        file = RemoteFile(url={url!r}, name="shard.bin", size_bytes={len(DATA)}, digest=digest)
        [got] = download_all([file], Cache(Path({str(root)!r})), progress=Told()).values()
        print(got.sha256)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def hold(server: OneFile) -> Fault:
    return server.fault(NAME, hold_bytes=HALF)


def wait_for_half(process: subprocess.Popen[str]) -> None:
    """Return once the process has written every byte that the server sent before it held."""
    assert process.stdout is not None
    counted = 0
    while counted < HALF:
        counted += int(process.stdout.readline())
    assert counted == HALF


def last_line(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=600)
    return out.strip().rpartition("\n")[2] or err


def test_a_cut_is_resumed_within_one_run(server: OneFile, cache: Cache) -> None:
    server.fault(NAME, cut_bytes=[100_000, 200_000, 300_000])
    assert fetch(promised(server), cache) == DATA
    assert server.served[NAME] == len(DATA)
    ranges = [a.headers.get("range") for a in server.asked]
    assert ranges == [None, "bytes=100000-", "bytes=300000-", "bytes=600000-"]
    assert [a.headers.get("if-range") for a in server.asked[1:]] == ['"one"'] * 3


def test_cuts_without_end_are_a_failure_that_keeps_the_part(server: OneFile, cache: Cache) -> None:
    server.fault(NAME, cut_bytes=[1000] + [0] * 50)
    with pytest.raises(FetchError, match="was interrupted") as caught:
        download_all([promised(server)], cache, patience=QUICK)
    assert "resumes where it stopped" in caught.value.hint
    assert len(server.asked) == QUICK.attempts
    assert part_bytes(cache) == 1000


def test_a_body_of_unsaid_length_is_held_against_the_promise(server: OneFile, cache: Cache) -> None:
    server.fault(NAME, unsized=True, cut_bytes=[HALF])
    assert fetch(promised(server), cache) == DATA
    assert server.served[NAME] == len(DATA)


def test_kill_minus_9_then_again_resumes_at_the_parts_length(server: OneFile, cache: Cache) -> None:
    hold(server)
    with child(server.url + NAME, cache.root) as first:
        wait_for_half(first)
        first.kill()
    assert part_bytes(cache) == HALF
    server.heal()
    mirror = f"/mirror{NAME}"  # counted apart from what still goes out to the killed one
    with child(server.url + mirror, cache.root) as second:
        assert last_line(second) == hashlib.sha256(DATA).hexdigest()
    assert server.served[mirror] == len(DATA) - HALF
    assert server.asked[-1].headers["range"] == f"bytes={HALF}-"
    assert server.asked[-1].headers["if-range"] == '"one"'


def test_ctrl_c_does_not_wait_for_a_silent_server(server: OneFile, cache: Cache) -> None:
    hold(server)
    with child(server.url + NAME, cache.root) as process:
        wait_for_half(process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=50)  # silence is borne for 60 s
    assert err.strip().endswith("KeyboardInterrupt")
    assert part_bytes(cache) == HALF
    server.heal()
    assert fetch(promised(server), cache) == DATA


def test_ctrl_c_while_transfers_begin_does_not_wait_either(
    server: OneFile, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, begin = hold(server), ThreadPoolExecutor.submit

    def interrupted(pool: ThreadPoolExecutor, *given: Any) -> NoReturn:
        begin(pool, *given)
        assert fault.held.wait(400)
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download_all([promised(server)], cache, patience=Patience(attempts=1, read_s=1000.0))


def test_two_processes_share_one_transfer(server: OneFile, cache: Cache) -> None:
    fault = hold(server)
    with (
        child(server.url + NAME, cache.root) as first,
        child(server.url + NAME, cache.root) as second,
    ):
        assert fault.held.wait(400)
        fault.released.set()
        said = [last_line(process) for process in (first, second)]
    assert said == [hashlib.sha256(DATA).hexdigest()] * 2
    assert server.served[NAME] == len(DATA)
    assert fetch(promised(server), cache) == DATA


def test_two_processes_one_killed_the_other_goes_on(server: OneFile, cache: Cache) -> None:
    fault = hold(server)
    with child(server.url + NAME, cache.root) as first:
        assert fault.held.wait(400)
        with child(server.url + NAME, cache.root) as second:
            first.kill()
            fault.released.set()
            assert last_line(second) == hashlib.sha256(DATA).hexdigest()


def test_a_server_that_ignores_ranges(server: OneFile, cache: Cache) -> None:
    leave_half(server, cache)
    server.fault(NAME, ignore_range=True)
    assert fetch(promised(server), cache) == DATA
    assert server.served[NAME] == len(DATA)


def test_a_source_that_changed_meanwhile_is_fetched_from_its_start(
    server: OneFile, cache: Cache
) -> None:
    unpromised = RemoteFile(url=server.url + NAME, name=NAME)
    leave_half(server, cache, unpromised)
    server.etag, server.data = '"two"', DATA[::-1]
    assert fetch(unpromised, cache) == DATA[::-1]
    assert server.served[NAME] == len(DATA)


def test_a_server_that_answers_a_range_of_another_version(server: OneFile, cache: Cache) -> None:
    """It honours Range and not If-Range: only its ETag says that the bytes are others."""
    unpromised = RemoteFile(url=server.url + NAME, name=NAME)
    leave_half(server, cache, unpromised)
    server.data = DATA[::-1]
    server.fault(NAME, headers={"ETag": '"two"'}, if_range_blind=True)
    assert fetch(unpromised, cache) == DATA[::-1]
    assert [a.headers.get("range") for a in server.asked] == [f"bytes={HALF}-", None]


def test_a_range_that_was_not_asked_for(server: OneFile, cache: Cache) -> None:
    unpromised = RemoteFile(url=server.url + NAME, name=NAME)
    leave_half(server, cache, unpromised)
    server.fault(NAME, range_from=HALF - 1)
    assert fetch(unpromised, cache) == DATA
    assert len(server.asked) == 2
    assert "range" not in server.asked[1].headers


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_a_date_serves_where_there_is_no_strong_etag(
    server: OneFile, cache: Cache, etag: str
) -> None:
    server.fault(NAME, etag=etag, cut_bytes=[HALF])
    assert fetch(RemoteFile(url=server.url + NAME, name=NAME), cache) == DATA
    assert server.asked[1].headers["if-range"].endswith("GMT")
    assert server.served[NAME] == len(DATA)


def test_without_any_validator_only_a_promise_allows_to_resume(
    server: OneFile, cache: Cache
) -> None:
    server.fault(NAME, etag="", headers={"Last-Modified": ""}, cut_bytes=[HALF])
    assert fetch(promised(server), cache) == DATA
    assert server.served[NAME] == len(DATA)
    server.fault("/other", etag="", headers={"Last-Modified": ""}, cut_bytes=[HALF])
    assert fetch(RemoteFile(url=f"{server.url}/other", name="other"), cache) == DATA
    assert server.served["/other"] == len(DATA) + HALF


def test_a_part_that_was_damaged_between_runs_is_given_up(server: OneFile, cache: Cache) -> None:
    leave_half(server, cache)
    [part] = cache.parts.glob("*.part")
    part.write_bytes(bytes(HALF))
    assert fetch(promised(server), cache) == DATA
    assert server.served[NAME] == len(DATA) - HALF + len(DATA)


def test_a_part_longer_than_the_file(server: OneFile, cache: Cache) -> None:
    leave_half(server, cache)
    [part] = cache.parts.glob("*.part")
    part.write_bytes(DATA + b"more")
    assert fetch(promised(server), cache) == DATA


def test_a_part_that_is_complete_needs_no_server(server: OneFile, cache: Cache) -> None:
    leave_half(server, cache)
    [part] = cache.parts.glob("*.part")
    part.write_bytes(DATA)
    assert fetch(promised(server), cache) == DATA
    assert server.asked == []


def test_a_flipped_bit_on_the_way(server: OneFile, cache: Cache) -> None:
    server.fault(NAME, corrupt_at=HALF + 1)
    with pytest.raises(IntegrityError, match="expected sha256"):
        download_all([promised(server)], cache, patience=QUICK)
    assert list(cache.parts.iterdir()) == []
    assert list((cache.root / "sha256").rglob("*")) == []
    server.heal()
    assert fetch(promised(server), cache) == DATA


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_server_is_asked_again(server: OneFile, cache: Cache, status: int) -> None:
    server.fault(NAME, statuses=[status, status])
    assert fetch(promised(server), cache) == DATA
    assert len(server.asked) == 3


def test_a_server_that_stays_busy(server: OneFile, cache: Cache) -> None:
    server.fault(NAME, statuses=[503] * 50)
    with pytest.raises(FetchError, match="answered 503"):
        download_all([promised(server)], cache, patience=QUICK)
    assert len(server.asked) == QUICK.attempts


def test_retry_after_is_a_limit_not_an_order(server: OneFile, cache: Cache) -> None:
    server.fault(NAME, statuses=[503], headers={"Retry-After": "86400"})
    patience = Patience(attempts=2, backoff_s=0.0, backoff_most_s=0.01, asked_most_s=0.5)
    [got] = download_all([promised(server)], cache, patience=patience).values()
    assert got.size_bytes == len(DATA)


def test_one_failure_stops_the_others_and_keeps_their_parts(server: OneFile, cache: Cache) -> None:
    hold(server)
    server.fault("/wrong.bin", corrupt_at=0)
    wrong = RemoteFile(
        url=f"{server.url}/wrong.bin",
        name="wrong.bin",
        digest=Sha256(hashlib.sha256(b"else").hexdigest()),
    )
    once = Patience(attempts=1)
    with pytest.raises(IntegrityError, match=r"wrong\.bin"):
        download_all([promised(server), wrong], cache, patience=once)
    server.heal()
    assert fetch(promised(server), cache) == DATA
