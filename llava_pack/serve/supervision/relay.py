"""A relay: listens at a Unix socket, and hands every connection on to where an engine listens.

A gateway behind its fence makes no socket of a network, and an engine of others often listens at
nothing else. Bytes are passed as they come, both ways; whoever stops sending is told on as such,
and the other direction goes on. Each direction holds what one read gave and no more, so that who
reads slowly holds up who writes.
"""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from llava_pack.profiles.profile import LOOPBACK
from llava_pack.serve.supervision.listener import listen_on_socket

_READ_BYTES = 64 << 10
_CONNECT_S = 5.0
_LOOK_EVERY_S = 0.1
_LISTENING = Path("/proc/net/tcp")
_LOOPBACK_WORD = f"{int.from_bytes(bytes(map(int, LOOPBACK.split('.'))), sys.byteorder):08X}"
"""As the kernel writes it: a number in the order of its bytes."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Port:
    """A port of TCP."""

    host: str
    number: int


Target = Path | Port
"""Where connections are handed on to: a Unix socket, or a port."""


def free_port() -> int:
    """Return a port of loopback that nobody listens at; somebody may before it is used."""
    with socket.socket() as held:
        held.bind((LOOPBACK, 0))
        return int(held.getsockname()[1])


def is_ours(port: int, table: Path = _LISTENING) -> bool:
    """Return whether a process of this account listens at a port of loopback.

    Another account could have taken it meanwhile, and be told keys and questions.

    Source: proc(5), net/tcp; 0A is TCP_LISTEN in include/net/tcp_states.h.
    """
    wanted = f"{_LOOPBACK_WORD}:{port:04X}"
    lines = (line.split() for line in table.read_text().splitlines()[1:])
    return any(one[1] == wanted and one[3] == "0A" and int(one[7]) == os.getuid() for one in lines)


@asynccontextmanager
async def relayed_to_ours(path: Path, port: int) -> AsyncIterator[None]:
    """Relay to a port of loopback while the block runs, from when this account listens there."""

    async def relay() -> None:
        while not is_ours(port):  # noqa: ASYNC110 - of another process, which tells nobody
            await asyncio.sleep(_LOOK_EVERY_S)
        async with relayed(path, Port(LOOPBACK, port)):
            await asyncio.Event().wait()

    relaying = asyncio.create_task(relay())
    try:
        yield
    finally:
        relaying.cancel()
        await asyncio.gather(relaying, return_exceptions=True)


@asynccontextmanager
async def relayed(path: Path, target: Target) -> AsyncIterator[None]:
    """Hand on what connects to `path`, in a private folder, while the block runs.

    Nobody has to listen at the target: who connects meanwhile is hung up on.

    Raises:
        ServeError: somebody listens at the path already.
    """
    running: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not server.is_serving():  # it was accepted, and heard of when all was over
            writer.close()
            return
        task = asyncio.create_task(_joined((reader, writer), target))
        running.add(task)
        task.add_done_callback(running.discard)

    # bound before anything is awaited: its umask must not reach what else is started meanwhile
    listening = listen_on_socket(path)
    server = await asyncio.start_unix_server(accepted, sock=listening, limit=_READ_BYTES)
    try:
        yield
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - one call, in a temporary folder


async def _joined(near: Streams, target: Target) -> None:
    """Pass bytes between a connection and one to the target, until both directions have ended."""
    with contextlib.closing(near[1]), contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_CONNECT_S):
            far = await _connected(target)
        with contextlib.closing(far[1]):
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_pass(near[0], far[1]))
                    both.create_task(_pass(far[0], near[1]))
            except* OSError:
                for _, writer in (near, far):  # one side is gone: the other one must not wait
                    writer.transport.abort()


async def _connected(target: Target) -> Streams:
    if isinstance(target, Path):
        return await asyncio.open_unix_connection(target, limit=_READ_BYTES)
    return await asyncio.open_connection(target.host, target.number, limit=_READ_BYTES)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.set_write_buffer_limits(high=_READ_BYTES)
    while data := await reader.read(_READ_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
