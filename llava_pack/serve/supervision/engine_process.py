"""One life of an engine process: started, loaded, proved, watched, and why it ended."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from llava_pack.engine.port import EngineInfo, Event, Request
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import PackError, ServeError
from llava_pack.profiles.endings import PortTakenError
from llava_pack.serve.care import Care
from llava_pack.serve.engines.client import EngineConnection, connect
from llava_pack.serve.liveness import SILENT_S, Pulse
from llava_pack.serve.port import Status
from llava_pack.serve.subprocesses import EngineCommand, Process, dump, start
from llava_pack.serve.supervision.foreign import begun
from llava_pack.serve.supervision.heartbeat import Heartbeat
from llava_pack.serve.supervision.lifetime import EngineProcessLife, LostError

_log = logging.getLogger(__name__)
_CONNECT_EVERY_S = 0.05
_STATS_EVERY_S = 0.5
_PORTS = 3
"""How many are tried, one after the other, where somebody else takes them meanwhile."""

_T = TypeVar("_T")
Ask = Callable[[Request], AsyncGenerator[Event, None]]
Proof = Callable[[Ask], Awaitable[None]]
"""Asks the model what it must know, and raises PackError where it does not."""


@dataclass(frozen=True, kw_only=True)
class Observer:
    """Who hears what becomes of a life; called on the event loop, and must not block."""

    status: Callable[[Status], None]
    ready: Callable[[EngineInfo], None]


class EngineLife(EngineProcessLife):
    """One process of an engine.

    Args:
        command: how it is started.
        pulse: where its signs of life go.
        care: how it is looked after.
        proof: what it must answer before it counts as ready; None asks nothing.
        observer: who hears what becomes of it.
    """

    def __init__(
        self,
        command: EngineCommand,
        pulse: Pulse,
        care: Care,
        proof: Proof | None,
        observer: Observer,
    ) -> None:
        super().__init__(command)
        self._pulse = pulse
        self._care = care
        bound_s = care.quiet_s if self._foreign else care.loading_s
        self._heart = Heartbeat(bound_s, look_most_s=2 * SILENT_S)
        self._proof = proof
        self._observer = observer

    async def run(self) -> None:
        """Start the process, make it ready, and raise what it ended with.

        Raises:
            PackError: always; nothing of the process is left.
        """
        for left in reversed(range(_PORTS)):
            self._observer.status(Status(phase="starting"))
            try:
                await self._live_once()
            except PortTakenError:
                if self._over or not left:
                    raise

    async def _live_once(self) -> None:
        async with self._with_others(), begun(self._command) as program:
            process = await start(program, "the engine")
            await self._live_with(process, self._live(process), self._hear)

    async def _live(self, process: Process) -> None:
        client = await self._connect(process)
        try:
            info = await self._load(client, process)
            self._pulse.begin()
            await self._prove(client, process)
            self._served = True
            self._observer.ready(info)
            while client.connected:
                await self._observe(client, process)
                await asyncio.sleep(_STATS_EVERY_S)
        finally:
            self._pulse.end()
            await client.close()

    @asynccontextmanager
    async def _with_others(self) -> AsyncIterator[None]:
        """Have the other machines that hold the model hold it while the block runs.

        Raises:
            ServeError: it is not wanted any more, before they were there.
            PackError: what the block raised, with what one of them told.
        """
        others = self._command.others
        while missing := others.missing:
            if self._over:
                raise ServeError("it was stopped", subject=self._command.name)
            self._observer.status(Status(phase="starting", detail=missing))
            await asyncio.sleep(_CONNECT_EVERY_S)
        self._observer.status(Status(phase="starting"))
        others.begin()
        try:
            yield
        except PackError as error:
            if others.lost in error.message:
                raise
            why = f"{error.message}; {others.lost}"
            raise type(error)(why, subject=error.subject, hint=error.hint) from error
        finally:
            others.dismiss()

    def _check_others(self) -> None:
        """See whether the other machines still hold their part.

        Raises:
            ServeError: one does not.
        """
        if lost := self._command.others.lost:
            raise ServeError(lost, subject=self._command.name)

    async def _connect(self, process: Process) -> EngineConnection:
        while True:
            with contextlib.suppress(ServeError, TimeoutError):
                async with asyncio.timeout(SILENT_S):
                    return await connect(self._command.address)
            if process.returncode is not None:
                raise LostError("it exited")
            await asyncio.sleep(_CONNECT_EVERY_S)
            await self._look(process)

    async def _load(self, client: EngineConnection, process: Process) -> EngineInfo:
        loading = asyncio.ensure_future(client.ready())
        try:
            while not loading.done():
                said = client.status
                self._observer.status(
                    Status(
                        phase="loading",
                        detail=said.phase,
                        done_bytes=said.done_bytes,
                        total_bytes=said.total_bytes or 0,
                    )
                )
                change = asyncio.ensure_future(client.changed())
                await asyncio.wait(
                    {loading, change}, timeout=_STATS_EVERY_S, return_when=asyncio.FIRST_COMPLETED
                )
                change.cancel()
                await self._look(process, client)
            return _or_lost(loading, client)
        finally:
            loading.cancel()

    async def _look(self, process: Process, client: EngineConnection | None = None) -> None:
        """See whether an engine that is not ready yet moves; one that hangs is ended."""
        self._check_others()
        if client is not None and await _counters(client) is not None:
            self._heart.heard()
        self._heart.look()
        if self._heart.stalled:
            await dump(process)
            raise ServeError(
                f"its engine, process {process.pid}, hung: no response for "
                f"{self._heart.silent_s:.0f} s while loading",
                subject=self._command.name,
            )

    async def _prove(self, client: EngineConnection, process: Process) -> None:
        """Ask what the model must know, and watch it meanwhile."""
        if self._proof is None:
            return
        self._observer.status(Status(phase="warming", detail="known answers"))
        proving = asyncio.ensure_future(self._proof(client.generate))
        try:
            while not proving.done():
                await self._observe(client, process)
                await asyncio.wait({proving}, timeout=_STATS_EVERY_S)
            _or_lost(proving, client)
        finally:
            proving.cancel()
            await asyncio.gather(proving, return_exceptions=True)

    async def _observe(self, client: EngineConnection, process: Process) -> None:
        """Take its signs of life; an engine that has stalled says where, and is ended."""
        self._check_others()
        if (stats := await _counters(client)) is not None:
            self._pulse.hear(stats)
        vitals = self._pulse.vitals
        if vitals.stalled_s <= vitals.bound_s + self._care.grace_s:
            return
        await dump(process)
        raise ServeError(
            f"its engine, process {process.pid}, hung: no step for {vitals.stalled_s:.0f} s, "
            f"{vitals.running} requests running",
            subject=self._command.name,
        )

    def _hear(self, line: str) -> None:
        if self._foreign:
            self._heart.heard()
        _log.info("%s: %s", self._command.name, line)


async def _counters(client: EngineConnection) -> Stats | None:
    """Return what an engine tells of itself; None where it does not in time."""
    with contextlib.suppress(TimeoutError, ServeError):
        async with asyncio.timeout(SILENT_S):
            return await client.stats()
    return None


def _or_lost(done: "asyncio.Future[_T]", client: EngineConnection) -> _T:
    """Return what came of it; where the engine is gone, its end says more than this."""
    error = done.exception()
    gone = not client.connected and client.status.error is None
    if isinstance(error, PackError) and gone:
        raise LostError("the connection was lost") from error
    return done.result()
