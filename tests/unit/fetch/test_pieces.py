"""Pieces of files, and servers that give something else in their place."""

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.pieces import Span, remote_pieces
from llava_pack.fetch.remote import RemoteFile
from tests.support.loopback import Answer, Asked, Loopback

DATA = hashlib.shake_256(b"llava").digest(300_000)
NAME = "w.bin"
BEGIN, MIDDLE, END = Span(NAME, 0, 1000), Span(NAME, 1000, 5000), Span(NAME, 299_000, 300_000)


class OneFile(Loopback):
    """Serves the same bytes at every path."""

    def respond(self, asked: Asked) -> Answer:
        return Answer(body=DATA, ranged=True)


@pytest.fixture
def server() -> Iterator[OneFile]:
    with OneFile() as server:
        yield server


def had(server: Loopback, folder: Path, size_bytes: int = len(DATA)) -> set[Span]:
    """Return which of three pieces were had, after a look at their bytes."""
    file = RemoteFile(url=f"{server.url}/{NAME}", name=NAME, size_bytes=size_bytes)
    found = remote_pieces({NAME: file}, [BEGIN, MIDDLE, END], Cache(folder / "cache"))
    for span, data in found.items():
        assert data == DATA[span.start : span.end]
    return {*found}


def test_pieces_are_what_was_asked_for(server, tmp_path):
    assert had(server, tmp_path) == {BEGIN, MIDDLE, END}
    assert server.served[f"/{NAME}"] == 6000


@pytest.mark.parametrize(
    ("fault", "given"),
    [
        ({"ignore_range": True}, {BEGIN}),
        ({"range_from": 0}, {BEGIN}),
        ({"range_from": 299_000}, {END}),
        ({"headers": {"Content-Encoding": "gzip"}}, set()),
        ({"statuses": [416] * 9}, set()),
        ({"statuses": [304] * 9}, set()),
        ({"cut_bytes": [10] * 9}, set()),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_something_else_is_left_out(server, tmp_path, fault, given):
    server.fault(f"/{NAME}", **fault)
    assert had(server, tmp_path) == given


def test_pieces_of_another_file_than_the_listed_one_are_left_out(server, tmp_path):
    assert had(server, tmp_path, len(DATA) + 1) == set()


def test_who_stops_it_does_not_wait_for_the_server(server, tmp_path, monkeypatch):
    fault = server.fault(f"/{NAME}", hold_bytes=10)

    def stopped(*_: object) -> None:
        fault.held.wait(timeout=60)
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", stopped)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        had(server, tmp_path)
    assert time.monotonic() - began < 10
    assert not any(one.name.startswith("piece") for one in threading.enumerate())
    fault.released.set()
