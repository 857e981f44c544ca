"""One life of an engine process: started, loaded, proved, watched, and why it ended."""

import asyncio
import contextlib
import logging
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from llava_pack.engine.port import EngineInfo, Event, Request
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import PackError, ServeError
from llava_pack.serve.care import Care
from llava_pack.serve.engines.client import EngineConnection, connect
from llava_pack.serve.liveness import SILENT_S, Pulse
from llava_pack.serve.port import Status
from llava_pack.serve.subprocesses import EngineCommand, dump, end, start
from llava_pack.serve.supervision.heartbeat import Heartbeat
from llava_pack.serve.supervision.lifetime import LostError, ProcessLife

_log = logging.getLogger(__name__)
_CONNECT_EVERY_S = 0.05
_STATS_EVERY_S = 0.5
_LAST_LINES = 20

_T = TypeVar("_T")
Ask = Callable[[Request], AsyncGenerator[Event, None]]
Proof = Callable[[Ask], Awaitable[None]]
"""Asks the model what it must know, and raises PackError where it does not."""


@dataclass(frozen=True, kw_only=True)
class Observer:
    """Who hears what becomes of a life; called on the event loop, and must not block."""

    status: Callable[[Status], None]
    ready: Callable[[EngineInfo], None]


class EngineLife(ProcessLife):
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
        super().__init__("its engine", _LAST_LINES, command.name)
        self._command = command
        self._pulse = pulse
        self._care = care
        self._heart = Heartbeat(care.loading_s, look_most_s=2 * SILENT_S)
        self._proof = proof
        self._observer = observer

    async def run(self) -> None:
        """Start the process, make it ready, and raise what it ended with.

        Raises:
            PackError: always; nothing of the process is left.
        """
        self._observer.status(Status(phase="starting"))
        others = self._command.others
        try:
            await self._wait_for_others()
            others.begin()
            process = await start(self._command.program, "the engine")
            await self._live_with(process, self._live(process), self._hear)
        except PackError as error:
            if others.lost in error.message:
                raise
            why = f"{error.message}; {others.lost}"
            raise ServeError(why, subject=error.subject, hint=error.hint) from error
        finally:
            others.dismiss()

    async def stop(self, *, force: bool) -> None:
        """End the process, at once with `force`."""
        self._over = True
        if self._process is not None:
            await end(self._process, force=force)

    async def _live(self, process: Process) -> None:
        client = await self._connect(process)
        try:
            info = await self._load(client, process)
            self._pulse.begin()
            await self._prove(client, process)
            self._observer.ready(info)
            while client.connected:
                await self._observe(client, process)
                await asyncio.sleep(_STATS_EVERY_S)
        finally:
            self._pulse.end()
            await client.close()

    async def _wait_for_others(self) -> None:
        """Wait until the other machines that hold the model are there.

        Raises:
            ServeError: it is not wanted any more.
        """
        while missing := self._command.others.missing:
            if self._over:
                raise ServeError("it was stopped", subject=self._command.name)
            self._observer.status(Status(phase="starting", detail=missing))
            await asyncio.sleep(_CONNECT_EVERY_S)
        self._observer.status(Status(phase="starting"))

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
