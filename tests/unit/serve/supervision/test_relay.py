"""A relay between a Unix socket and where an engine listens: bytes, ends, and slow readers."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llava_pack.format.errors import ServeError
from llava_pack.serve.supervision.relay import (
    Port,
    Target,
    free_port,
    is_ours,
    relayed,
    relayed_to_ours,
)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
MEBIBYTE = 1 << 20


@asynccontextmanager
async def behind(answer: Answer, folder: Path, *, unix: bool = False) -> AsyncIterator[Streams]:
    """Have a connection through a relay to what answers so."""
    path = folder / "near"
    target: Target = folder / "far"
    if unix:
        server = await asyncio.start_unix_server(answer, folder / "far")
    else:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        target = Port("127.0.0.1", server.sockets[0].getsockname()[1])
    async with server, relayed(path, target):
        reader, writer = await asyncio.open_unix_connection(path)
        with contextlib.closing(writer):
            yield reader, writer


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with what was sent, once it has ended."""
    writer.write(await reader.read())
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("unix", [True, False])
def test_bytes_pass_both_ways_and_an_end_passes_alone(tmp_path: Path, *, unix: bool) -> None:
    sent = os.urandom(3 * MEBIBYTE)

    async def run() -> bytes:
        async with behind(echo, tmp_path, unix=unix) as (reader, writer):
            writer.write(sent)
            writer.write_eof()
            return await reader.read()

    assert asyncio.run(run()) == sent
    assert not (tmp_path / "near").exists()


def test_who_does_not_read_holds_up_who_writes(tmp_path: Path) -> None:
    written = 0

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        with contextlib.suppress(OSError):
            while True:
                writer.write(bytes(MEBIBYTE))
                await writer.drain()
                written += 1

    async def run() -> None:
        async with behind(pour, tmp_path) as (reader, _):
            await reader.readexactly(MEBIBYTE)
            before = -1
            while before != written:
                before = written
                await asyncio.sleep(0.1)

    asyncio.run(run())
    assert written < 30, "what the kernel's own buffers hold, and little more"


@pytest.mark.parametrize("near", [True, False])
def test_whoever_hangs_up_is_missed_on_the_other_side(tmp_path: Path, *, near: bool) -> None:
    async def run() -> None:
        gone = asyncio.Event()

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                if near:
                    await reader.read()
                writer.transport.abort()
            gone.set()

        async with behind(hang_up, tmp_path) as (reader, writer):
            if near:
                writer.transport.abort()
            else:
                with contextlib.suppress(OSError):
                    assert await reader.read() == b""
            await gone.wait()

    asyncio.run(asyncio.wait_for(run(), 10))


def test_who_connects_while_nobody_listens_is_hung_up_on_and_later_not(tmp_path: Path) -> None:
    async def run() -> None:
        target = Port("127.0.0.1", free_port())
        async with relayed(tmp_path / "near", target):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "near")
            assert await reader.read() == b""
            writer.close()
            server = await asyncio.start_server(echo, target.host, target.number)
            async with server:
                reader, writer = await asyncio.open_unix_connection(tmp_path / "near")
                writer.write(b"x")
                writer.write_eof()
                assert await reader.read() == b"x"
                writer.close()

    asyncio.run(asyncio.wait_for(run(), 10))


def test_a_relay_to_a_port_begins_once_this_account_listens_there(tmp_path: Path) -> None:
    async def run() -> None:
        port = free_port()
        async with relayed_to_ours(tmp_path / "near", port):
            await asyncio.sleep(0.3)
            assert not (tmp_path / "near").exists()
            async with await asyncio.start_server(echo, "127.0.0.1", port):
                while not (tmp_path / "near").exists():  # noqa: ASYNC110 - of another task
                    await asyncio.sleep(0.01)
                reader, writer = await asyncio.open_unix_connection(tmp_path / "near")
                writer.write(b"x")
                writer.write_eof()
                assert await reader.read() == b"x"
                writer.close()
        assert not (tmp_path / "near").exists()

    asyncio.run(asyncio.wait_for(run(), 10))


@pytest.mark.parametrize(
    ("address", "state", "account", "ours"),
    [
        ("0100007F:7531", "0A", os.getuid(), True),
        ("0100007F:7531", "0A", os.getuid() + 1, False),
        ("0100007F:7531", "01", os.getuid(), False),
        ("00000000:7531", "0A", os.getuid(), False),
        ("0100007F:7532", "0A", os.getuid(), False),
    ],
)
def test_only_what_listens_at_loopback_for_this_account_is_relayed_to(
    tmp_path: Path, address: str, state: str, account: int, *, ours: bool
) -> None:
    table = tmp_path / "tcp"
    table.write_text(
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
        f"   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {account} 0\n"
    )
    assert is_ours(0x7531, table) is ours


def test_its_socket_is_the_owners_alone_and_taken_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with relayed(tmp_path / "near", Port("127.0.0.1", 1)):
            assert (tmp_path / "near").stat().st_mode & 0o777 == 0o600
            with pytest.raises(ServeError):
                async with relayed(tmp_path / "near", Port("127.0.0.1", 1)):
                    raise AssertionError

    asyncio.run(run())


def test_what_runs_is_cut_when_it_ends(tmp_path: Path) -> None:
    async def wait(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def run() -> bytes:
        server = await asyncio.start_unix_server(wait, tmp_path / "far")
        async with server:
            async with relayed(tmp_path / "near", tmp_path / "far"):
                reader, writer = await asyncio.open_unix_connection(tmp_path / "near")
                writer.write(b"x")
                await asyncio.sleep(0)
            with contextlib.suppress(OSError):
                assert await reader.read() == b""
            writer.close()
            return b""

    asyncio.run(asyncio.wait_for(run(), 10))
