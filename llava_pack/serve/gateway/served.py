"""An engine as the gateway serves it: how it stands comes by the feed, answers from the engine.

The gateway starts and ends no engine. It holds a connection to each, and asks.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from llava_pack.engine.fence.value import Standing
from llava_pack.engine.measures import Trace
from llava_pack.engine.port import EngineInfo, Event, Failed, Finished, Request
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import PackError, ServeError
from llava_pack.serve.counters import Tally
from llava_pack.serve.engines.client import EngineConnection, connect
from llava_pack.serve.feed import News
from llava_pack.serve.gateway.routing import HERE, ReplicaLoad
from llava_pack.serve.liveness import SILENT_S
from llava_pack.serve.port import LaterError, OverloadedError, Status, Vitals

_log = logging.getLogger(__name__)
_AGAIN_S = 0.05
_GREETING_S = 5.0
_SOON_S = 5.0
"""What warming up, or a restart, takes."""
_DOUBT_S = 3.0
"""How long a replica that was lost is passed over: by then who looks after it knows better."""


class ServedEngine:
    """A model whose engine process is another one's child; the gateway's `Served`.

    Args:
        news: how it stands.
        queue: requests that may wait for a slot.
        on_change: called when its engine is reached or lost, and when nothing is left to answer.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        news: News,
        queue: int,
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._news, self._told_s = news, clock()
        self._loading = self._told_s, news.status.done_bytes
        """When it was first heard to load, and how many bytes it had loaded then."""
        self._queue = queue
        self._on_change = on_change
        self._client: EngineConnection | None = None
        self._connecting = asyncio.create_task(self._stay_connected())
        self._lost_s = -math.inf
        self._of_others = 0
        self.left = False
        """Whether it serves no more; what runs goes on."""
        self.tally = Tally(restarts=news.restarts)
        """What became of its requests."""
        self.in_flight = 0
        """Requests that are being answered just now."""

    @property
    def name(self) -> str:
        """The name for `model` in the API."""
        return self._news.name

    @property
    def status(self) -> Status:
        """Where it stands; an engine that is not reached yet is not ready."""
        if self.left:
            return Status(phase="stopped", detail="shutting down")
        if self._news.status.phase == "ready" and self._client is None:
            return Status(phase="starting", detail="connecting to its engine")
        return self._news.status

    @property
    def info(self) -> EngineInfo | None:
        """What its engine said of itself; None until it was ready once."""
        return self._news.info

    @property
    def standing(self) -> Standing | None:
        """Which fence stands around its engine; None where that is not known."""
        told = self._client.standing if self._client else None
        return told or self._news.address.standing

    @property
    def vitals(self) -> Vitals:
        """The latest signs of progress; where nobody looks any more, nothing is known to move."""
        seen, age_s = self._news.vitals, self._clock() - self._told_s
        if age_s <= SILENT_S:
            return seen
        return replace(seen, stalled_s=max(seen.stalled_s, age_s))

    @property
    def stats(self) -> Stats:
        """What its engine last counted."""
        return self._news.stats

    @property
    def replica(self) -> str:
        """Where it is, for people: a server's address, or that it is this one's own."""
        return self._news.replica or HERE

    @property
    def replicas(self) -> tuple[()]:
        """None: it is one engine."""
        return ()

    @property
    def load(self) -> ReplicaLoad:
        """What it has to do, as the choice among replicas sees it."""
        doubtful = self.vitals.stalled or self._clock() - self._lost_s < _DOUBT_S
        return ReplicaLoad(
            replica=self.replica,
            slots=max(1, self.info.slots if self.info else 1),
            busy=self.in_flight + self._of_others,
            ready=self.status.phase == "ready" and not doubtful,
        )

    @property
    def full(self) -> bool:
        """Whether a request would be refused because the queue is full."""
        slots = self.info.slots if self.info else 0
        return self.in_flight >= slots + self._queue

    def take(self, news: News) -> None:
        """Take how it stands now."""
        before = self._news.status
        self._news, self._told_s = news, self._clock()
        if before.phase != "loading":
            self._loading = self._told_s, news.status.done_bytes
        self.tally.restarts = news.restarts
        self._of_others = max(0, news.stats.running + news.stats.waiting - self.in_flight)

    def leave(self) -> None:
        """Serve no more; what runs goes on."""
        self.left = True

    async def close(self) -> None:
        """Let go of the engine; what still runs there is cancelled."""
        self._connecting.cancel()
        await asyncio.gather(self._connecting, return_exceptions=True)

    def admit(self) -> None:
        """Refuse early, before pictures are decoded.

        Raises:
            ServeError: the engine is not ready.
            OverloadedError: the queue is full.
        """
        self._reached()
        if self.full:
            self.tally.refused += 1
            raise OverloadedError.full(self.in_flight)

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer a request.

        Raises:
            ServeError: the engine is not ready, or ended meanwhile.
            OverloadedError: the queue is full.
        """
        self.admit()
        ended, asked = "abort", request.request_id
        events = self._reached().generate(request)
        del request  # its pictures are as large as they are, and the engine has them soon
        self.in_flight += 1
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Finished):
                        self._finished(event)
                        ended = ""
                    elif isinstance(event, Failed):
                        ended = "error"
                    yield event
        except PackError as error:
            ended = "error"
            if isinstance(error, ServeError):
                self._lost_s = self._clock()
            raise
        finally:
            self.in_flight -= 1
            if ended:
                self.tally.ended[ended] += 1
                _log.info("%s: %s ended: %s", self.name, asked, ended)
            if self.in_flight == 0 and self.status.phase == "stopped":
                self._on_change()

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

    def _reached(self) -> EngineConnection:
        if self._client is None or self.status.phase != "ready":
            raise LaterError(f"the model is not ready: {self.status.phase}", retry_s=self._ready_s)
        return self._client

    @property
    def _ready_s(self) -> float:
        """In how many seconds it may be ready: what is left to load, at its pace so far."""
        status, (since_s, at_first) = self._news.status, self._loading
        loaded, took_s = status.done_bytes - at_first, self._clock() - since_s
        if status.phase != "loading" or loaded <= 0:
            return _SOON_S
        return (status.total_bytes - status.done_bytes) * took_s / loaded + _SOON_S

    def _finished(self, event: Finished) -> None:
        self.tally.finished(event)
        counted, timings = event.usage, event.timings
        _log.info(
            "%s: %s ended: %s; %d tokens in, %d out; queued %.3f s, first token %.3f s, all %.3f s",
            self.name, event.request_id, event.reason,
            counted.prompt_tokens, counted.completion_tokens,
            timings.queued_s, timings.first_token_s, timings.total_s,
        )  # fmt: skip

    async def _stay_connected(self) -> None:
        """Hold a connection to whatever process listens at the engine's socket."""
        while True:
            with contextlib.suppress(ServeError, TimeoutError):
                async with asyncio.timeout(_GREETING_S):
                    client = await connect(self._news.address)
                async with client:
                    self._client = client
                    self._on_change()
                    try:
                        while client.connected:
                            await client.changed()
                    finally:
                        self._client = None
                        self._on_change()
            await asyncio.sleep(_AGAIN_S)
