"""Connections over real sockets: times, numbers, and what is counted of them."""

import asyncio
import errno
import logging
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from llava_pack.serve.admission import connections
from llava_pack.serve.admission.connections import (
    ConnectionLimits,
    Connections,
    raise_open_files,
    uvicorn_options,
)
from llava_pack.serve.admission.refusals import Refusals

_GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
_POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
_QUICK = ConnectionLimits(header_s=0.2, body_s=0.2, body_bytes=100, unread_s=0.2, idle_s=1)


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    large = scope["path"] == "/large"
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"2" if not large else b"100000002")],
        }
    )
    for _ in range(100 if large else 0):
        await send({"type": "http.response.body", "body": bytes(1_000_000), "more_body": True})
    await send({"type": "http.response.body", "body": b"ok"})


@dataclass
class _Running:
    port: int
    refusals: Refusals

    async def connect(
        self, first: bytes = b""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(first)
        return reader, writer

    async def answered(self) -> bool:
        reader, writer = await self.connect(_GET)
        try:
            return (await reader.readexactly(15)) == b"HTTP/1.1 200 OK"
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        finally:
            writer.close()


@asynccontextmanager
async def _served(limits: ConnectionLimits) -> AsyncIterator[_Running]:
    refusals = Refusals()
    options: dict[str, Any] = uvicorn_options(refusals, limits)
    server = uvicorn.Server(uvicorn.Config(_app, log_config=None, lifespan="off", **options))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        task = asyncio.create_task(server._serve([listening]))
        while not server.started:  # noqa: ASYNC110 - uvicorn tells no event
            await asyncio.sleep(0.001)
        yield _Running(listening.getsockname()[1], refusals)
        server.should_exit = server.force_exit = True
        await task


@contextmanager
def _unfiltered(logger: logging.Logger) -> Iterator[None]:
    """Let everything through that earlier servers of this process let nobody see."""
    before, logger.filters = logger.filters, []
    try:
        yield
    finally:
        logger.filters = before


async def _ends(reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionError:
        return b""


def test_with_all_the_time_there_is_they_would_stay() -> None:
    async def attacked() -> None:
        async with _served(ConnectionLimits(header_s=1000, body_s=1000)) as running:
            held = [await running.connect(sent) for sent in (b"GET / HT", _POST % 10_000)]
            await asyncio.sleep(0.5)
            assert not any(reader.at_eof() for reader, _ in held)
            assert not running.refusals.connections
            for _, writer in held:
                writer.close()

    asyncio.run(attacked())


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "header_timeouts"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", "header_timeouts"),
        (_GET + b"GET / HT", "header_timeouts"),
        (_POST % 10_000, "body_timeouts"),
        (_POST % 10_000 + b"x" * 50, "body_timeouts"),
    ],
)
def test_who_does_not_go_on_is_cut_off(sent: bytes, reason: str) -> None:
    async def attacked() -> None:
        async with _served(_QUICK) as running:
            reader, writer = await running.connect(sent)
            await _ends(reader)
            writer.close()
            assert running.refusals.connections == {reason: 1}
            assert await running.answered()

    asyncio.run(attacked())


def test_a_byte_now_and_then_keeps_no_connection() -> None:
    """Slowloris: headers that come on, and never end."""

    async def attacked() -> None:
        async with _served(_QUICK) as running:
            reader, writer = await running.connect(b"GET / HTTP/1.1\r\nHost: x\r\n")
            ended = asyncio.create_task(_ends(reader))
            while not ended.done():
                writer.write(b"X: y\r\n")
                await asyncio.wait({ended}, timeout=0.01)
            writer.close()
            assert running.refusals.connections == {"header_timeouts": 1}

    asyncio.run(attacked())


def test_a_body_that_comes_on_may_take_its_time() -> None:
    async def asked() -> None:
        async with _served(_QUICK) as running:
            reader, writer = await running.connect(_POST % 3000)
            for _ in range(30):
                writer.write(b"x" * 100)
                await asyncio.sleep(0.02)
            assert (await reader.readexactly(15)) == b"HTTP/1.1 200 OK"
            writer.close()
            assert not running.refusals.connections

    asyncio.run(asked())


def test_an_answer_that_nobody_reads_is_given_up() -> None:
    async def attacked() -> None:
        async with _served(_QUICK) as running:
            with socket.socket() as client:
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", running.port))
                client.send(_GET.replace(b"/ ", b"/large "))
                while not running.refusals.connections["unread_answers"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    asyncio.run(attacked())


def test_the_oldest_that_asks_nothing_makes_room() -> None:
    async def flooded() -> None:
        limits = ConnectionLimits(total=20, of_peer=8)
        async with _served(limits) as running:
            held = [await running.connect(b"GET / HT") for _ in range(8)]
            assert await running.answered()
            assert running.refusals.connections["idle_closed"] == 1
            assert await _ends(held[0][0]) == b""
            assert not held[1][0].at_eof()
            for _, writer in held:
                writer.close()

    asyncio.run(flooded())


def test_without_a_number_all_would_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connections, "admit", lambda *_: True)

    async def flooded() -> None:
        async with _served(ConnectionLimits(total=3, of_peer=3)) as running:
            held = [await running.connect(b"GET / HT") for _ in range(20)]
            assert await running.answered()
            assert not any(reader.at_eof() for reader, _ in held)
            assert not running.refusals.connections
            for _, writer in held:
                writer.close()

    asyncio.run(flooded())


def test_where_everybody_asks_a_new_one_is_turned_away() -> None:
    async def flooded() -> None:
        async with _served(ConnectionLimits(total=3, of_peer=8)) as running:
            busy = [await running.connect(_POST % 5) for _ in range(3)]
            for _ in range(20):
                await asyncio.sleep(0.005)
            assert not await running.answered()
            assert running.refusals.connections == {"too_many": 1}
            for reader, writer in busy:
                writer.write(b"hello")
                assert (await reader.readexactly(15)) == b"HTTP/1.1 200 OK"
                writer.close()

    asyncio.run(flooded())


def test_what_is_no_http_is_counted_and_not_written(caplog: pytest.LogCaptureFixture) -> None:
    async def attacked() -> None:
        async with _served(_QUICK) as running:
            for _ in range(5):
                reader, writer = await running.connect(b"the-token \x00\r\n\r\n")
                assert (await _ends(reader)).startswith(b"HTTP/1.1 400")
                writer.close()
            assert running.refusals.connections == {"bad_requests": 5}

    asyncio.run(attacked())
    assert not [record for record in caplog.records if record.name == "uvicorn.error"]


def test_without_the_count_each_has_its_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_is_no_counted_line", lambda _: True)

    async def attacked() -> None:
        async with _served(_QUICK) as running:
            for _ in range(5):
                reader, writer = await running.connect(b"the-token \x00\r\n\r\n")
                await _ends(reader)
                writer.close()

    with _unfiltered(logging.getLogger("uvicorn.error")):
        asyncio.run(attacked())
    assert len([record for record in caplog.records if record.name == "uvicorn.error"]) == 5


def test_errors_of_accept_are_counted_and_an_idle_one_makes_room(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def attacked() -> None:
        async with _served(_QUICK) as running:
            reader, writer = await running.connect(b"GET / HT")
            await asyncio.sleep(0.05)
            asyncio.get_running_loop().call_exception_handler(
                {
                    "message": "socket.accept() out of system resource",
                    "exception": OSError(errno.EMFILE, "Too many open files"),
                }
            )
            await _ends(reader)
            writer.close()
            assert running.refusals.connections["accept_errors"] == 1

    asyncio.run(attacked())
    assert "socket.accept()" not in caplog.text


def test_as_many_files_as_may_be_are_opened() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        assert raise_open_files() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
