"""The gateway's process: `python -I -m llava_pack.serve.gateway.process CHANNEL LISTENING`.

Both are numbers of descriptors that it was started with: its end of the pair of sockets to the
supervisor, and the socket that clients connect to. It is the only process that reads what strangers
send. It ends with the supervisor, and when it is told to.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import uvicorn

from llava_pack.engine.fence.value import Standing
from llava_pack.format.errors import PackError
from llava_pack.format.exit_codes import ExitCode
from llava_pack.serve.access.audit import Sink
from llava_pack.serve.access.audit_sinks import sink_of
from llava_pack.serve.access.key_store import KeyStore
from llava_pack.serve.access.quota import Books
from llava_pack.serve.admission.connections import raise_open_files, uvicorn_options
from llava_pack.serve.admission.refusals import Refusals
from llava_pack.serve.feed import (
    BEAT_EVERY_S,
    BULLETIN_BYTES,
    LEFT_AT_ONCE,
    Beat,
    Bulletin,
    Start,
    from_line,
    lines,
    to_line,
)
from llava_pack.serve.gateway.fencing import enter_gateway_fence
from llava_pack.serve.gateway.models import ServedModels
from llava_pack.serve.logfile import kept

if TYPE_CHECKING:
    from fastapi import FastAPI

_CLOSE_S = 1


def main(argv: Sequence[str]) -> NoReturn:
    """Serve until told to end."""
    channel, listening = (int(number) for number in argv)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    try:
        asyncio.run(_main(socket.socket(fileno=channel), _listening(listening)))
        code = ExitCode.OK
    except PackError as error:
        sys.stderr.write(f"ERROR {__name__}: {error}\n")
        code = error.exit_code
    _leave(code)


def _leave(code: ExitCode) -> NoReturn:
    """End this process: a thread that is busy with what somebody sent must not keep it."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(int(code))


async def _main(channel: socket.socket, listening: socket.socket) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=channel, limit=BULLETIN_BYTES)
    messages = lines(reader)
    start = from_line(Start, await anext(messages))
    with kept(start.log):
        raise_open_files()
        sink = sink_of(start.audit)  # behind the fence no socket for datagrams is made any more
        standing = _close_in(start)
        await _Gateway(start, standing, sink, messages, writer).serve(listening)


def _close_in(start: Start) -> Standing:
    """Raise the fence: what is needed is open or known, and no other thread runs yet."""
    audit = [Path(start.audit.path)] if start.audit.to == "file" else []
    logs = [path.parent for path in (start.log, *audit) if path is not None]
    read = _folder_of_keys(start.policy.key_store)
    read += [] if start.picture_root is None else [start.picture_root]
    return enter_gateway_fence(start.home, read=read, write=logs, mode=start.fence)


def _folder_of_keys(store: str) -> list[Path]:
    """Return the folder of the keys, made: a fence lets through only what is there already."""
    if not store:
        return []
    path = Path(store)
    with contextlib.suppress(OSError):  # keys that are added later need a restart then
        KeyStore(path).make_folder()
    return [path.parent]


class _Server(uvicorn.Server):
    """uvicorn that tells when it listens, and leaves signals to the supervisor."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Gateway:
    def __init__(
        self,
        start: Start,
        standing: Standing,
        sink: Sink | None,
        messages: AsyncIterator[bytes],
        writer: asyncio.StreamWriter,
    ) -> None:
        self._start = start
        self._standing = standing
        self._sink = sink
        self._books = Books(time.monotonic, start.left)
        self._messages = messages
        self._writer = writer
        self._due = asyncio.Event()
        self._models = ServedModels(start.queue, self._due.set)
        self._server: uvicorn.Server | None = None
        self._seen = -1

    async def serve(self, listening: socket.socket) -> None:
        """Serve until the supervisor says that it is over, or is gone."""
        self._take(await anext(self._messages))
        tasks = {
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._beat()),
            asyncio.create_task(self._answer(listening)),
        }
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _answer(self, listening: socket.socket) -> None:
        refusals = Refusals()
        self._server = _Server(
            uvicorn.Config(
                await asyncio.to_thread(self._make_app, refusals),
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                timeout_graceful_shutdown=_CLOSE_S,
                **uvicorn_options(refusals),
            ),
            self._due.set,
        )
        await self._server.serve([listening])

    def _make_app(self, refusals: Refusals) -> "FastAPI":
        from llava_pack.serve.gateway.app import GatewaySettings, create_app

        start = self._start
        settings = GatewaySettings(
            policy=start.policy,
            books=self._books,
            sink=self._sink,
            queue=start.queue,
            aliases=start.aliases,
            web=start.web,
            bundle_id=start.bundle_id,
            restarts=start.restarts,
            standing=self._standing,
            picture_root=start.picture_root,
        )
        return create_app(self._models, settings, refusals)

    async def _listen(self) -> None:
        async for line in self._messages:
            if self._take(line).ending:
                self._close()
        _leave(ExitCode.SERVE)  # with the supervisor, whatever still runs

    def _take(self, line: bytes) -> Bulletin:
        bulletin = from_line(Bulletin, line)
        self._models.take(bulletin)
        self._seen = bulletin.number
        self._due.set()
        return bulletin

    def _close(self) -> None:
        if self._server is None:
            _leave(ExitCode.OK)
        # What is cut off now is no error to be told with a traceback.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._server.should_exit = True

    async def _beat(self) -> None:
        """Give signs of life; where they stop, this loop does not move."""
        with contextlib.suppress(OSError):
            while True:
                self._due.clear()
                self._writer.write(to_line(self._sign()))
                await self._writer.drain()
                await self._models.let_go()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._due.wait(), BEAT_EVERY_S)

    def _sign(self) -> Beat:
        return Beat(
            seen=self._seen,
            listening=self._server is not None and self._server.started,
            in_flight=self._models.in_flight,
            reached=self._models.reached,
            left=self._books.changes(LEFT_AT_ONCE),
        )


def _listening(descriptor: int) -> socket.socket:
    """Return the socket that clients connect to.

    The protocol is named: asyncio turns Nagle off only where it is, and tokens would clump.
    """
    found = socket.socket(fileno=descriptor)
    if found.family == socket.AF_UNIX:
        return found
    return socket.socket(found.family, found.type, socket.IPPROTO_TCP, fileno=found.detach())


if __name__ == "__main__":
    main(sys.argv[1:])
