"""One engine under supervision: kept running, asked, and counted.

A failure before the engine was ever ready is the start's failure. After that it is started again,
later each time, and the cause is kept where people see it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from llava_pack.engine.client import EngineClient
from llava_pack.engine.fence.value import Standing
from llava_pack.engine.port import EngineInfo, Event, Failed, Finished, Request, Trace
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import PackError, ServeError
from llava_pack.serve.life import EngineLife, Observer, Proof
from llava_pack.serve.models import OverloadedError, Status, Vitals
from llava_pack.serve.process import EngineCommand
from llava_pack.serve.pulse import STALL_S, Pulse
from llava_pack.serve.tally import Tally

_log = logging.getLogger(__name__)
_BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_STEADY_S = 120.0
QUEUE = 256


@dataclass(frozen=True, kw_only=True)
class Care:
    """How an engine is looked after."""

    stall_s: float = STALL_S
    """How long it may take over one step."""
    grace_s: float = 5.0
    """How long a stall is shown by `/livez` before the engine is started again."""
    queue: int = QUEUE
    """Requests that may wait for a slot."""


class SupervisedEngine:
    """A model whose engine process is kept running; the gateway's `Served`.

    Args:
        command: how it is started.
        on_status: called at every change, on the event loop; must not block.
        care: how it is looked after.
        proof: what it must answer before it counts as ready.
    """

    def __init__(
        self,
        command: EngineCommand,
        on_status: Callable[[str, Status], None] | None = None,
        *,
        care: Care | None = None,
        proof: Proof | None = None,
    ) -> None:
        self._command = command
        self._on_status = on_status or (lambda _name, _status: None)
        self._care = care or Care()
        self._proof = proof
        self._status = Status(phase="starting")
        self._info: EngineInfo | None = None
        self._client: EngineClient | None = None
        self._life: EngineLife | None = None
        self._pulse = Pulse(self._care.stall_s)
        self._stopping = asyncio.Event()
        self.tally = Tally()
        """What became of its requests."""
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
    def standing(self) -> Standing | None:
        """Which fence stands around its engine; None where that is not known."""
        return self._client.standing if self._client else None

    @property
    def vitals(self) -> Vitals:
        """The latest signs of progress; an engine that does not even answer has stalled."""
        return self._pulse.vitals

    @property
    def stats(self) -> Stats:
        """What its engine last counted."""
        return self._pulse.stats

    @property
    def full(self) -> bool:
        """Whether a request would be refused because the queue is full."""
        slots = self._info.slots if self._info else 0
        return self.in_flight >= slots + self._care.queue

    def admit(self) -> None:
        """Refuse early, before pictures are decoded.

        Raises:
            ServeError: the engine is not ready.
            OverloadedError: the queue is full.
        """
        self._reached()
        if self.full:
            self.tally.refused += 1
            raise OverloadedError(
                f"the queue is full: {self.in_flight} requests are being answered or wait",
                hint="try again in a moment",
            )

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer a request.

        Raises:
            ServeError: the engine is not ready, or ended meanwhile.
            OverloadedError: the queue is full.
        """
        self.admit()
        ended = "abort"
        self.in_flight += 1
        try:
            async with aclosing(self._reached().generate(request)) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        self._finished(event)
                        ended = ""
                    elif isinstance(event, Failed):
                        ended = "error"
                    yield event
        except PackError:
            ended = "error"
            raise
        finally:
            self.in_flight -= 1
            if ended:
                self.tally.ended[ended] += 1
                _log.info("%s: %s ended: %s", self.name, request.request_id, ended)

    async def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt.

        Raises:
            PackError: the request is not usable, or the engine not ready.
        """
        return await self._reached().tokenize(request)

    async def trace(self, request: Request) -> Trace:
        """Return what becomes of a question on its way through the model.

        Raises:
            PackError: the request is not usable, or the engine not ready.
        """
        return await self._reached().trace(request)

    async def run(self) -> None:
        """Keep the engine running until `stop`.

        Raises:
            PackError: it could not be started the first time.
        """
        failures = 0
        while not self._stopping.is_set():
            began_s = time.monotonic()
            observer = Observer(status=self._tell, ready=self._on_ready)
            self._life = EngineLife(
                self._command, self._pulse, self._care.grace_s, self._proof, observer
            )
            try:
                await self._life.run()
            except PackError as error:
                if not (self.ready.is_set() or self._stopping.is_set()):
                    raise
                cause = error.message
            finally:
                self._client = None
            failures = 1 if time.monotonic() - began_s > _STEADY_S else failures + 1
            await self._pause(cause, _BACKOFF_S[min(failures, len(_BACKOFF_S)) - 1])
        self._tell(Status(phase="stopped"))

    def refuse(self) -> None:
        """Take no further requests; those that run go on."""
        self._stopping.set()
        self._tell(Status(phase="stopped", detail="shutting down"))

    async def stop(self, *, force: bool = False) -> None:
        """End the engine process, at once with `force`."""
        self._stopping.set()
        if self._life is not None:
            await self._life.stop(force=force)

    def _reached(self) -> EngineClient:
        if self._client is None or self._status.phase != "ready":
            raise ServeError(
                f"the model is not ready: {self._status.phase}", hint="try again in a moment"
            )
        return self._client

    def _finished(self, event: Finished) -> None:
        self.tally.finished(event)
        counted, timings = event.usage, event.timings
        _log.info(
            "%s: %s ended: %s; %d tokens in, %d out; queued %.3f s, first token %.3f s, all %.3f s",
            self.name, event.request_id, event.reason,
            counted.prompt_tokens, counted.completion_tokens,
            timings.queued_s, timings.first_token_s, timings.total_s,
        )  # fmt: skip

    def _on_ready(self, client: EngineClient, info: EngineInfo) -> None:
        self._client, self._info = client, info
        self._tell(Status(phase="ready"))
        self.ready.set()

    async def _pause(self, cause: str, wait_s: float) -> None:
        """Show why the engine ended, and wait before it is started again."""
        if self._stopping.is_set():
            return
        self.tally.restarts += 1
        _log.warning("%s: %s; started again in %g s", self.name, cause, wait_s)
        self._tell(Status(phase="restarting", detail=f"{cause}; again in {wait_s:g} s"))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), wait_s)

    def _tell(self, status: Status) -> None:
        if self._stopping.is_set() and status.phase != "stopped":
            return
        if status != self._status:
            self._status = status
            self._on_status(self.name, status)
