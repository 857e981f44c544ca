"""The engine's side of its socket: connections, routing of events, refusal while draining."""

import asyncio
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, replace
from typing import Any

from llava_pack.engine.fence.value import Standing
from llava_pack.engine.port import Engine, Event, Failed, Finished, Request
from llava_pack.engine.process import protocol
from llava_pack.engine.process.loop import EngineThread, Listener, Load
from llava_pack.engine.process.protocol import PROTOCOL, EngineStatus, Wire
from llava_pack.engine.sampling import SETTINGS
from llava_pack.format.errors import PackError, ServeError

_log = logging.getLogger(__name__)
BUFFER_BYTES = 1 << 20
_QUESTIONS: dict[str, Callable[[Engine, Request], Wire]] = {
    "tokenize": lambda engine, request: {"token_ids": engine.tokenize(request)},
    "trace": lambda engine, request: {"trace": asdict(engine.trace(request))},
}


class EngineServer:
    """Serves one engine thread to any number of connections.

    Requests are known to the engine as `connection/id`, so clients cannot touch each other's;
    a connection that ends takes its requests with it.
    """

    def __init__(self, load: Load, standing: Standing | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._connections: dict[int, asyncio.StreamWriter] = {}
        self._ids = itertools.count(1)
        self._active: set[str] = set()
        self._preparing: dict[str, bool] = {}
        """Requests that are not submitted yet, and whether they were cancelled meanwhile."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._status = EngineStatus(state="loading")
        self._standing = standing
        self._draining = False
        self.quiet = asyncio.Event()
        self.quiet.set()
        self.failed = asyncio.Event()
        self.thread = EngineThread(load, Listener(self._on_events, self._on_status))

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        number = next(self._ids)
        try:
            if await self._greet(reader, writer):
                self._connections[number] = writer
                await self._listen(number, reader, writer)
        except (PackError, OSError, KeyError, TypeError) as error:
            _log.warning("connection %d ended: %s", number, error)
        finally:
            self._connections.pop(number, None)
            for request_id in [r for r in self._active if r.startswith(f"{number}/")]:
                self._cancel(request_id)
            writer.close()

    def drain(self) -> None:
        """Take no more requests; those that run go on."""
        self._draining = True
        self._publish(replace(self._status, state="draining"))

    def cut(self) -> None:
        """Cancel everything that runs."""
        for request_id in self._active:
            self._cancel(request_id)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        received = await protocol.read_message(reader)
        hello: Wire = {
            "op": "hello",
            "protocol": PROTOCOL,
            "status": protocol.status_to_wire(self._status),
        }
        hello["fence"] = asdict(self._standing) if self._standing else None
        hello["settings"] = (*SETTINGS, "new_turn")
        writer.writelines(protocol.encode(hello))
        if received is None or received[0].get("protocol") != PROTOCOL:
            got = received[0].get("protocol") if received else None
            _log.warning("a client speaks protocol %s, expected %d", got, PROTOCOL)
            return False
        return True

    async def _listen(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while (received := await protocol.read_message(reader)) is not None:
            message, attachments = received
            op = message.get("op")
            if op == "generate":
                self._generate(number, message["request"], attachments, writer)
            elif op == "cancel":
                self._cancel(f"{number}/{message['request_id']}")
            elif op == "stats":
                answer = {"op": "stats", "tag": message["tag"], "stats": asdict(self.thread.stats)}
                writer.writelines(protocol.encode(answer))
            elif op in _QUESTIONS:
                self._begin(self._question(message, attachments, writer))
            else:
                raise ServeError(f"unknown operation {op!r} on the engine's socket")

    def _generate(
        self, number: int, fields: Wire, attachments: list[bytes], writer: asyncio.StreamWriter
    ) -> None:
        request_id = str(fields["request_id"])
        full_id = f"{number}/{request_id}"
        try:
            if self._draining:
                raise ServeError("the engine is shutting down")
            if full_id in self._active:
                raise ServeError(f"request {request_id} is already running")
            request = protocol.request_from_wire({**fields, "request_id": full_id}, attachments)
        except PackError as error:
            failed = protocol.event_to_wire(Failed.of(request_id, error))
            writer.writelines(protocol.encode(failed))
            return
        self._active.add(full_id)
        self.quiet.clear()
        if request.sampling.grammar is None:
            self.thread.submit(request)
        else:
            self._preparing[full_id] = False
            self._begin(self._prepared(request))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prepared(self, request: Request) -> None:
        """Submit a request once what takes long for it is done, beside the engine's steps."""
        full_id = request.request_id
        try:
            await asyncio.to_thread(self.thread.prepare, request)
        except Exception as problem:  # noqa: BLE001 - a request fails alone, whatever it was
            error = problem
            if not isinstance(error, PackError):
                _log.exception("an operation failed")
                error = PackError(f"{type(error).__name__}: {error}")
            del self._preparing[full_id]
            self._deliver([Failed.of(full_id, error)])
            return
        self.thread.submit(request)
        if self._preparing.pop(full_id):
            self.thread.cancel(full_id)

    def _cancel(self, full_id: str) -> None:
        if full_id in self._preparing:
            self._preparing[full_id] = True
        else:
            self.thread.cancel(full_id)

    async def _question(
        self, message: Wire, attachments: list[bytes], writer: asyncio.StreamWriter
    ) -> None:
        answer: Wire = {"op": "answer", "tag": message["tag"]}
        try:
            request = protocol.request_from_wire(message["request"], attachments)
            ask = _QUESTIONS[message["op"]]
            answer |= await asyncio.wrap_future(self.thread.ask(lambda one: ask(one, request)))
        except PackError as error:
            answer["failed"] = asdict(Failed.of("", error))
        except Exception as error:  # noqa: BLE001 - whoever asked is told, whatever it was
            _log.exception("an operation failed")
            answer["failed"] = asdict(Failed.of("", PackError(f"{type(error).__name__}: {error}")))
        writer.writelines(protocol.encode(answer))

    def _on_events(self, events: Sequence[Event]) -> None:
        self._loop.call_soon_threadsafe(self._deliver, events)

    def _on_status(self, status: EngineStatus) -> None:
        self._loop.call_soon_threadsafe(self._publish, status)

    def _deliver(self, events: Sequence[Event]) -> None:
        frames: dict[int, list[bytes]] = defaultdict(list)
        for event in events:
            owner, _, request_id = event.request_id.partition("/")
            wire = protocol.event_to_wire(replace(event, request_id=request_id))
            frames[int(owner)] += protocol.encode(wire)
            if isinstance(event, Finished | Failed):
                self._active.discard(event.request_id)
        for connection, parts in frames.items():
            if connection in self._connections:
                self._connections[connection].writelines(parts)
        if not self._active:
            self.quiet.set()

    def _publish(self, status: EngineStatus) -> None:
        if self._draining and status.state != "failed":
            status = replace(status, state="draining")
        self._status = status
        frames = protocol.encode({"op": "status", "status": protocol.status_to_wire(status)})
        for writer in self._connections.values():
            writer.writelines(frames)
        if status.state == "failed":
            self.failed.set()
