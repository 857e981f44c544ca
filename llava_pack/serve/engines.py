"""One engine process under supervision: started, watched, and started again.

A failure before the engine was ever ready is the run's failure. After that it is started again,
later each time, and the cause is kept where people see it.
"""

import asyncio
import contextlib
import logging
import signal
import time
from asyncio.subprocess import Process
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from llava_pack.engine.client import EngineClient
from llava_pack.engine.port import EngineInfo, Event, Request
from llava_pack.format.errors import PackError, ServeError
from llava_pack.serve.models import Status, Vitals
from llava_pack.serve.process import EngineCommand, end, own_error, start

_log = logging.getLogger(__name__)
_CONNECT_EVERY_S = 0.05
_STATS_EVERY_S = 0.5
_STATS_WITHIN_S = 5.0
_BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_STEADY_S = 120.0
_LAST_WORDS_S = 1.0
_LAST_LINES = 20


class SupervisedEngine:
    """A model whose engine process is kept running; the gateway's `Served`.

    Args:
        command: how it is started.
        on_status: called at every change, on the event loop; must not block.
    """

    def __init__(
        self, command: EngineCommand, on_status: Callable[[str, Status], None] | None = None
    ) -> None:
        self._command = command
        self._on_status = on_status or (lambda _name, _status: None)
        self._status = Status(phase="starting")
        self._info: EngineInfo | None = None
        self._client: EngineClient | None = None
        self._process: Process | None = None
        self._vitals = Vitals(steps=0, running=0, waiting=0, stalled_s=0.0)
        self._answered_s = time.monotonic()
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._stopping = False
        self.in_flight = 0
        """Requests that are being answered just now."""
        self.ready = asyncio.Event()
        """Set when it first was ready."""

    @property
    def name(self) -> str:
        """The name for `model` in the API."""
        return self._command.name

    @property
    def status(self) -> Status:
        """Where it stands."""
        return self._status

    @property
    def info(self) -> EngineInfo | None:
        """What its engine said of itself; None until it was ready once."""
        return self._info

    @property
    def vitals(self) -> Vitals:
        """The latest signs of progress; an engine that does not even answer has stalled."""
        silent_s = time.monotonic() - self._answered_s if self._client else 0.0
        late_s = silent_s if silent_s > _STATS_WITHIN_S else 0.0
        known = self._vitals
        return Vitals(
            steps=known.steps,
            running=known.running,
            waiting=known.waiting,
            stalled_s=max(known.stalled_s, late_s),
        )

    @property
    def pid(self) -> int | None:
        """The engine's process while there is one."""
        return self._process.pid if self._process else None

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer a request.

        Raises:
            ServeError: the engine is not ready, or ended meanwhile.
        """
        client = self._client
        if client is None or self._status.phase != "ready":
            raise ServeError(
                f"the model is not ready: {self._status.phase}", hint="try again in a moment"
            )
        self.in_flight += 1
        try:
            async with aclosing(client.generate(request)) as events:
                async for event in events:
                    yield event
        finally:
            self.in_flight -= 1

    async def run(self) -> None:
        """Keep the engine running until `stop`.

        Raises:
            PackError: it could not be started the first time.
        """
        failures = 0
        while not self._stopping:
            began_s = time.monotonic()
            try:
                await self._one_life()
                cause = "it ended by itself"
            except PackError as error:
                if not (self.ready.is_set() or self._stopping):
                    raise
                cause = error.message
            finally:
                await self._end()
            if self._stopping:
                break
            failures = 1 if time.monotonic() - began_s > _STEADY_S else failures + 1
            wait_s = _BACKOFF_S[min(failures, len(_BACKOFF_S)) - 1]
            self._tell(Status(phase="restarting", detail=f"{cause}; again in {wait_s:g} s"))
            await asyncio.sleep(wait_s)
        self._tell(Status(phase="stopped"))

    def refuse(self) -> None:
        """Take no further requests; those that run go on."""
        self._stopping = True
        self._tell(Status(phase="stopped", detail="shutting down"))

    async def stop(self, *, force: bool = False) -> None:
        """End the engine process, at once with `force`."""
        self._stopping = True
        if self._process is not None:
            await end(self._process, force=force)

    async def _one_life(self) -> None:
        """Start the process, make it ready, and return or raise when it has ended."""
        self._tell(Status(phase="starting"))
        self._lines.clear()
        process = await start(self._command)
        self._process = process
        reading = asyncio.create_task(self._read_lines(process))
        living = asyncio.create_task(self._live(process))
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({living, ended}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({living, reading, ended}, timeout=_LAST_WORDS_S)
            error = living.exception() if living.done() else None
            if error is not None and not isinstance(error, ServeError):
                raise error
            raise self._death(process.returncode)
        finally:
            for task in (living, ended, reading):
                task.cancel()
            await asyncio.gather(living, ended, reading, return_exceptions=True)

    async def _live(self, process: Process) -> None:
        client = await self._connect(process)
        try:
            self._info = await self._load(client)
            self._client, self._answered_s = client, time.monotonic()
            self._tell(Status(phase="ready"))
            self.ready.set()
            while client.connected:
                await self._observe(client)
                await asyncio.sleep(_STATS_EVERY_S)
        finally:
            self._client = None
            await client.close()

    async def _connect(self, process: Process) -> EngineClient:
        while True:
            try:
                return await EngineClient.connect(self._command.socket)
            except ServeError:
                if process.returncode is not None:
                    raise self._death(process.returncode) from None
                await asyncio.sleep(_CONNECT_EVERY_S)

    async def _load(self, client: EngineClient) -> EngineInfo:
        loading = asyncio.ensure_future(client.ready())
        try:
            while not loading.done():
                said = client.status
                self._tell(
                    Status(
                        phase="loading",
                        detail=said.phase,
                        done_bytes=said.done_bytes,
                        total_bytes=said.total_bytes or 0,
                    )
                )
                change = asyncio.ensure_future(client.changed())
                await asyncio.wait({loading, change}, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
            return loading.result()
        finally:
            loading.cancel()

    async def _observe(self, client: EngineClient) -> None:
        try:
            async with asyncio.timeout(_STATS_WITHIN_S):
                stats = await client.stats()
        except (TimeoutError, ServeError):
            return
        self._answered_s = time.monotonic()
        self._vitals = Vitals(
            steps=stats.steps,
            running=stats.running,
            waiting=stats.waiting,
            stalled_s=stats.last_step_age_s,
        )

    async def _read_lines(self, process: Process) -> None:
        if process.stderr is None:
            return
        with contextlib.suppress(ValueError):  # a line without end
            async for line in process.stderr:
                text = line.decode(errors="replace").rstrip()
                self._lines.append(text)
                _log.info("%s: %s", self.name, text)

    def _death(self, returncode: int | None) -> PackError:
        if (error := own_error(returncode, list(self._lines))) is not None:
            return error
        how = f"ended with exit code {returncode}" if returncode is not None else "went silent"
        if returncode is not None and returncode < 0:
            how = f"was ended by {signal.Signals(-returncode).name}"
        hint = "\n".join(line for line in self._lines if line.strip())
        if returncode == -signal.SIGKILL:
            hint = (
                "the kernel ends processes when memory runs out: see `dmesg`, or take --load-4bit"
            )
        return ServeError(f"its engine, process {self.pid}, {how}", subject=self.name, hint=hint)

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await end(process)

    def _tell(self, status: Status) -> None:
        if not (self._stopping and status.phase != "stopped") and status != self._status:
            self._status = status
            self._on_status(self.name, status)
