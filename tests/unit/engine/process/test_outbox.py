"""What goes out on a connection: in order, in pieces, each message to its end."""

import asyncio
import gc
import mmap
import os
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from llava_pack.engine.pixels import kept, memory_file, pieces
from llava_pack.engine.process.outbox import Outbox

_LARGE = 5 << 20


@asynccontextmanager
async def _connected() -> AsyncIterator[tuple[Outbox, asyncio.StreamReader]]:
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_unix_connection(sock=ours)
    reader, other = await asyncio.open_unix_connection(sock=theirs)
    outbox = Outbox(writer)
    yield outbox, reader
    await outbox.close()
    for one in (writer, other):
        one.close()


def test_a_message_that_was_begun_is_ended_whoever_gives_up() -> None:
    async def sent() -> bytes:
        async with _connected() as (outbox, reader):
            first = asyncio.create_task(outbox.send([b"1", b"a" * _LARGE]))
            second = asyncio.create_task(outbox.send([b"2", b"b" * _LARGE]))
            got = await reader.readexactly(1)  # the first one is underway
            third = outbox.post([b"3"])
            for one in (first, second):
                one.cancel()
            await asyncio.gather(first, second, return_exceptions=True)
            got += await reader.readexactly(_LARGE + 1)
            await third
            return got

    assert asyncio.run(sent()) == b"1" + b"a" * _LARGE + b"3"


def test_who_sends_to_nobody_is_told() -> None:
    async def sent() -> None:
        async with _connected() as (outbox, reader):
            sending = asyncio.create_task(outbox.send([b"a" * _LARGE]))
            await reader.readexactly(1)
            reader._transport.close()  # type: ignore[attr-defined]
            with pytest.raises(ConnectionError):
                await sending
            with pytest.raises(ConnectionError):
                await outbox.send([b"b"])

    asyncio.run(sent())


def test_what_waits_when_it_is_closed_fails_and_what_comes_later() -> None:
    async def closed() -> None:
        async with _connected() as (outbox, reader):
            sending = [asyncio.create_task(outbox.send([b"a" * _LARGE])) for _ in range(2)]
            await reader.readexactly(1)
            await outbox.close()
            sending.append(asyncio.create_task(outbox.send([b"b"])))
            for one in sending:
                with pytest.raises(ConnectionAbortedError):
                    await one

    asyncio.run(closed())


@pytest.mark.parametrize("size", [1, 4096, (1 << 20) + 3, 3 << 20])
def test_pixels_are_kept_as_they_are(size: int) -> None:
    data, file = os.urandom(size), memory_file()
    try:
        os.pwrite(file, data + b"more", 0)
        copy = kept(file, size)
    finally:
        os.close(file)
    assert isinstance(copy, mmap.mmap)
    for _ in range(2):
        assert b"".join(pieces(copy)) == data
    assert b"".join(pieces(data)) == data


def test_a_file_that_is_too_short_is_told() -> None:
    file = memory_file()
    try:
        os.pwrite(file, b"12", 0)
        with pytest.raises(EOFError):
            kept(file, 3)
    finally:
        os.close(file)


def test_files_of_pictures_go_with_them() -> None:
    file = memory_file()
    os.pwrite(file, b"123", 0)
    gc.collect()
    before = psutil.Process().num_fds()
    copies = [kept(file, 3) for _ in range(10)]
    assert psutil.Process().num_fds() == before + 10
    del copies
    assert psutil.Process().num_fds() == before


def test_what_was_sent_is_let_go() -> None:
    file = memory_file()
    os.pwrite(file, b"123", 0)

    async def sent() -> bool:
        async with _connected() as (outbox, reader):
            picture = kept(file, 3)
            gone = weakref.ref(picture)
            await outbox.send([picture])
            del picture
            assert await reader.readexactly(3) == b"123"
            return gone() is None

    assert asyncio.run(sent())
    os.close(file)


def test_a_message_that_cannot_be_ended_ends_the_connection() -> None:
    """Else the next one would be read as its rest."""

    class Broken(bytes):
        def __getitem__(self, _: Any) -> bytes:
            raise MemoryError

    async def sent() -> bytes:
        async with _connected() as (outbox, reader):
            broken = asyncio.create_task(outbox.send([b"1", Broken(b"2")]))
            later = asyncio.create_task(outbox.send([b"3"]))
            with pytest.raises(ConnectionAbortedError):
                await broken
            with pytest.raises(ConnectionResetError):
                await later
            return await reader.read()

    assert asyncio.run(sent()) in {b"", b"1"}
