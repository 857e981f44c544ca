"""A model that several replicas serve: each request goes to one of them.

One that is lost before it said anything costs nobody an answer: the request is asked once more,
elsewhere. After the first event that cannot be, and the answer fails as it does with one engine.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from llava_pack.engine.fence.value import Standing
from llava_pack.engine.measures import Trace
from llava_pack.engine.port import EngineInfo, Event, Failed, Finished, Request
from llava_pack.engine.stats import Stats, together
from llava_pack.format.errors import PackError, ServeError
from llava_pack.serve.counters import Tally
from llava_pack.serve.gateway.routing import affinity_of, choose
from llava_pack.serve.gateway.served import ServedEngine
from llava_pack.serve.port import LaterError, OverloadedError, Status, Vitals


class ReplicatedModel:
    """The gateway's `Served` over several engines that serve the same.

    Args:
        name: for `model` in the API.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.replicas: tuple[ServedEngine, ...] = ()
        """Those that are asked; what runs on others goes on."""
        self.tally = Tally()
        """What became of its requests, however many replicas one took."""
        self.asked_again = 0
        """Requests that a second replica was asked, since the first one was lost."""

    def take(self, replicas: Sequence[ServedEngine]) -> None:
        """Take which ones there are now."""
        self.replicas = tuple(replicas)
        self.tally.restarts = sum(one.tally.restarts for one in replicas)

    @property
    def name(self) -> str:
        """The name for `model` in the API."""
        return self._name

    @property
    def status(self) -> Status:
        """Where it stands: ready while one replica is."""
        if self._ready:
            return Status(phase="ready")
        if not self.replicas:
            return Status(phase="stopped", detail="no replica")
        return self.replicas[0].status

    @property
    def info(self) -> EngineInfo | None:
        """What replicas said of themselves: the slots of all that are ready, and what all can."""
        infos = [one.info for one in self._ready or self.replicas if one.info is not None]
        if not infos:
            return None
        return replace(
            infos[0],
            slots=sum(info.slots for info in infos),
            context_tokens=min(info.context_tokens for info in infos),
        )

    @property
    def standing(self) -> Standing | None:
        """Which fence stands around its engine: another server tells of its own."""
        return next((one.standing for one in self.replicas if one.standing), None)

    @property
    def vitals(self) -> Vitals:
        """The signs of progress of all; it stalls where all that are ready do."""
        seen = [one.vitals for one in self._ready or self.replicas]
        least = min(seen, key=lambda each: each.stalled_s - each.bound_s, default=None)
        if least is None:
            return Vitals(steps=0, running=0, waiting=0, stalled_s=0.0, bound_s=0.0)
        return replace(
            least,
            steps=sum(each.steps for each in seen),
            running=sum(each.running for each in seen),
            waiting=sum(each.waiting for each in seen),
        )

    @property
    def stats(self) -> Stats:
        """What all engines last counted, together."""
        return together([one.stats for one in self.replicas])

    @property
    def full(self) -> bool:
        """Whether every replica that is ready would refuse a request."""
        return all(one.full for one in self._ready)

    def admit(self) -> None:
        """Refuse early, before pictures are decoded.

        Raises:
            ServeError: no replica is ready.
            OverloadedError: all queues are full.
        """
        if not self._ready:
            raise LaterError(f"the model is not ready: {self.status.phase}")
        if self.full:
            self.tally.refused += 1
            raise OverloadedError.full(sum(one.in_flight for one in self.replicas))

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer a request.

        Raises:
            ServeError: no replica is ready, or the one that answers was lost.
            OverloadedError: all queues are full.
        """
        self.admit()
        ended = "abort"
        events = self._answer(request)
        del request  # its pictures are as large as they are
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Finished):
                        self.tally.finished(event)
                        ended = ""
                    elif isinstance(event, Failed):
                        ended = "error"
                    yield event
        except PackError:
            ended = "error"
            raise
        finally:
            if ended:
                self.tally.ended[ended] += 1

    async def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt.

        Raises:
            PackError: the request is not usable, or no replica is ready.
        """
        return await self._near(request).tokenize(request)

    async def trace(self, request: Request) -> Trace:
        """Return what becomes of a question on its way through the model.

        Raises:
            PackError: the request is not usable, or no replica is ready.
        """
        return await self._near(request).trace(request)

    async def _answer(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer a request, elsewhere where the replica is lost before it says a word."""
        first, begun = self._near(request), False
        try:
            async with aclosing(first.generate(request)) as events:
                async for event in events:
                    if not begun:
                        _raise_lost(event)
                        begun = True
                        del request  # whoever answers has its pictures
                    yield event
        except ServeError:
            if begun or (other := self._other(request, first)) is None:
                raise
        else:
            return
        self.asked_again += 1
        answer = other.generate(request)
        del request
        async with aclosing(answer) as events:
            async for event in events:
                yield event

    def _near(self, request: Request, but: ServedEngine | None = None) -> ServedEngine:
        """Return the replica that a request goes to.

        Raises:
            LaterError: there is none.
        """
        ready = {one.replica: one for one in self._ready if one is not but}
        loads = [one.load for one in ready.values()]
        affinity = affinity_of(request)
        chosen = choose(loads, affinity)
        if chosen is None:  # a doubtful one is better than none
            chosen = choose([replace(load, ready=True) for load in loads], affinity)
        if chosen is None:
            raise LaterError(f"the model is not ready: {self.status.phase}")
        return ready[chosen.replica]

    def _other(self, request: Request, first: ServedEngine) -> ServedEngine | None:
        try:
            return self._near(request, first)
        except LaterError:
            return None

    @property
    def _ready(self) -> list[ServedEngine]:
        return [one for one in self.replicas if one.status.phase == "ready"]


def _raise_lost(event: Event) -> None:
    """Raise what a first event tells of a replica that could not answer, whoever had asked."""
    if isinstance(event, Failed) and event.kind == ServeError.kind:
        raise event.error()
