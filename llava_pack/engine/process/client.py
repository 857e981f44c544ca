"""An asyncio client of an engine process: torch-free, many requests over one socket."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from llava_pack.checkpoint.templates import RAW
from llava_pack.engine.fence.value import Standing
from llava_pack.engine.measures import Trace
from llava_pack.engine.pixels import Pixels
from llava_pack.engine.port import EngineInfo, Event, Failed, Finished, Request
from llava_pack.engine.process import protocol
from llava_pack.engine.process.outbox import Outbox
from llava_pack.engine.process.protocol import PROTOCOL, EngineStatus, Wire
from llava_pack.engine.sampling import FIRST_SETTINGS
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import PackError, ServeError, UsageError, reason_of

# Within one message a reader buffers at most this much beyond what it was asked for.
_BUFFER_BYTES = 1 << 20


class EngineClient:
    """One connection to an engine process.

    Closing a `generate` iterator, or cancelling the task that reads it, cancels its request.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._outbox = Outbox(writer)
        self._ids = itertools.count(1)
        self._events: dict[str, asyncio.Queue[Event | PackError]] = {}
        self._answers: dict[int, asyncio.Future[Wire]] = {}
        self._status: EngineStatus | None = None
        self._standing: Standing | None = None
        self._settings = FIRST_SETTINGS
        self._changed = asyncio.Event()
        self._gone: PackError | None = None
        self._listener: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, path: Path) -> Self:
        """Return a client of the engine that listens at `path`; it may still be loading.

        Raises:
            ServeError: nobody listens there, or it speaks another version of the protocol.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=_BUFFER_BYTES)
        except OSError as error:
            why = reason_of(error)
            raise ServeError(f"cannot reach the engine: {why}", subject=str(path)) from error
        client = cls(reader, writer)
        try:
            await client._greet()
        except OSError as error:
            await client.close()
            raise ServeError(
                f"the connection to the engine was lost: {error}", subject=str(path)
            ) from error
        except BaseException:
            await client.close()
            raise
        return client

    @property
    def status(self) -> EngineStatus:
        """Return what the engine last said about itself."""
        if self._status is None:
            raise ServeError("the engine has not reported its state yet")
        return self._status

    @property
    def standing(self) -> Standing | None:
        """Return which fence stands around the engine, None where it does not tell."""
        return self._standing

    @property
    def info(self) -> EngineInfo:
        """Return what the engine serves.

        Raises:
            ServeError: it is still loading, or gone.
        """
        if self.status.info is None:
            raise ServeError("the engine is still loading", hint="wait until it is ready")
        return self.status.info

    @property
    def connected(self) -> bool:
        """Return whether the engine can still be reached."""
        return self._gone is None

    async def changed(self) -> EngineStatus:
        """Wait for the next status, or for the end of the connection, and return the last one."""
        if self._gone is None:
            self._changed.clear()
            await self._changed.wait()
        return self.status

    async def ready(self) -> EngineInfo:
        """Wait until the engine has loaded and return what it serves.

        Raises:
            PackError: loading failed, with the engine's own error.
            ServeError: the engine is gone.
        """
        while self.status.info is None:
            if self.status.error is not None:
                raise self.status.error.error()
            if self._gone is not None:
                raise self._gone
            await self.changed()
        return self.status.info

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Yield the events of a request; the last one is `Finished` or `Failed`.

        The events carry the request's own id; two clients, and two requests of one client, may
        use the same.

        Raises:
            ServeError: the connection to the engine was lost.
        """
        wire_id = str(next(self._ids))
        queue: asyncio.Queue[Event | PackError] = asyncio.Queue()
        self._events[wire_id] = queue
        ended = False
        try:
            request_id = request.request_id
            self._check_settings(request)
            fields, pixels = protocol.request_to_wire(replace(request, request_id=wire_id))
            try:
                await self._send({"op": "generate", "request": fields}, pixels)
            except UsageError as error:
                ended = True
                yield Failed.of(request_id, error)
            del request, pixels  # the engine has its pictures, nobody here needs them
            while not ended:
                event = await queue.get()
                if isinstance(event, PackError):
                    raise event
                ended = isinstance(event, Finished | Failed)
                yield replace(event, request_id=request_id)
        finally:
            del self._events[wire_id]
            if not ended and self._gone is None:
                self._post({"op": "cancel", "request_id": wire_id})

    def _check_settings(self, request: Request) -> None:
        """Refuse what an engine of an earlier release would not do.

        Raises:
            UsageError: there is such a setting.
        """
        asked = [*request.sampling.given]
        if request.new_turn is not None and request.conv_mode != RAW:
            asked.append("new_turn")
        newer = [name for name in asked if name not in self._settings]
        if newer:
            raise UsageError(
                f"the engine of this model is of an earlier release, and has no {newer[0]}",
                subject=newer[0],
                hint="leave it out, or build and install the model anew",
            )

    async def stats(self) -> Stats:
        """Return the engine's counters; answered even while a step is running.

        Raises:
            ServeError: the engine is gone.
        """
        answer = await self._ask({"op": "stats"})
        return protocol.stats_from_wire(answer["stats"])

    async def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt; a picture is -200, once for each of its tokens.

        Raises:
            PackError: the request is not usable, with the engine's own error.
            ServeError: the engine is gone.
        """
        return tuple((await self._question("tokenize", request))["token_ids"])

    async def trace(self, request: Request) -> Trace:
        """Return what becomes of a question, stage by stage.

        Raises:
            PackError: the request is not usable, with the engine's own error.
            ServeError: the engine is gone.
        """
        return protocol.trace_from_wire((await self._question("trace", request))["trace"])

    async def _question(self, op: str, request: Request) -> Wire:
        fields, pixels = protocol.request_to_wire(request)
        answer = await self._ask({"op": op, "request": fields}, pixels)
        if "failed" in answer:
            raise Failed(**answer["failed"]).error()
        return answer

    async def close(self) -> None:
        """Close the connection; requests that are still running are cancelled."""
        self._lost(ServeError("the connection to the engine was closed"))
        if self._listener is not None:
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener
        await self._outbox.close()
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _greet(self) -> None:
        await self._send({"op": "hello", "protocol": PROTOCOL})
        received = await protocol.read_message(self._reader)
        if received is None:
            raise ServeError("the engine closed the connection")
        hello, _ = received
        if hello.get("protocol") != PROTOCOL:
            got = hello.get("protocol")
            raise ServeError(f"the engine speaks protocol {got}, expected {PROTOCOL}")
        self._status = protocol.status_from_wire(hello["status"])
        self._standing = Standing.from_wire(hello.get("fence"))
        self._settings = frozenset(hello.get("settings") or FIRST_SETTINGS)
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            while (received := await protocol.read_message(self._reader)) is not None:
                self._take(received[0])
            self._lost(ServeError("the connection to the engine was lost"))
        except (PackError, OSError) as error:
            self._lost(ServeError(f"the connection to the engine was lost: {error}"))

    def _take(self, message: Wire) -> None:
        op = message.get("op")
        if op == "status":
            self._status = protocol.status_from_wire(message["status"])
            self._changed.set()
        elif op in {"stats", "answer"}:
            answer = self._answers.get(message["tag"])
            if answer is not None and not answer.done():
                answer.set_result(message)
        else:
            event = protocol.event_from_wire(message)
            queue = self._events.get(event.request_id)
            if queue is not None:
                queue.put_nowait(event)

    def _lost(self, error: ServeError) -> None:
        if self._gone is None:
            self._gone = error
        for queue in self._events.values():
            queue.put_nowait(self._gone)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._gone)
        self._changed.set()

    async def _ask(self, message: Wire, attachments: Sequence[Pixels] = ()) -> Wire:
        """Send a message under a tag of its own and return its answer."""
        tag = next(self._ids)
        answer: asyncio.Future[Wire] = asyncio.get_running_loop().create_future()
        self._answers[tag] = answer
        try:
            await self._send({**message, "tag": tag}, attachments)
            return await answer
        finally:
            self._answers.pop(tag, None)

    async def _send(self, message: Wire, attachments: Sequence[Pixels] = ()) -> None:
        if self._gone is not None:
            raise self._gone
        try:
            await self._outbox.send(protocol.encode(message, attachments))
        except OSError as error:
            raise ServeError(f"the connection to the engine was lost: {error}") from error

    def _post(self, message: Wire) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._outbox.post(protocol.encode(message))
