"""A model that its callers share: one line before the engine, seats in turn, and a share each.

The engine's own queue knows no callers: whoever asks forty times would have the other one wait for
all of it. So a request waits here, and goes to the engine when a slot is about to be free. Its
pictures are decoded only then: what waits in the line holds none.
"""

import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

from llava_pack.engine.fence.value import Standing
from llava_pack.engine.measures import Trace
from llava_pack.engine.port import EngineInfo, Event, Request
from llava_pack.engine.stats import Stats
from llava_pack.serve.admission.body_budget import Budget
from llava_pack.serve.admission.fair_queue import Party, Seats
from llava_pack.serve.admission.line import Line
from llava_pack.serve.caller import ANYONE, Caller
from llava_pack.serve.care import QUEUE
from llava_pack.serve.counters import Tally
from llava_pack.serve.port import (
    MOST_RETRY_S,
    OverloadedError,
    Replica,
    Served,
    ShareError,
    Status,
    Vitals,
)

_AHEAD = 2
"""Requests more than slots that are at the engine, so that a free slot has its next one there."""
_MANY_SLOTS = 4
"""From here on, one slot stays free for callers who have none, while others are around."""
_NEWCOMERS = 64
"""Callers without a request in the line who still find room in a full one."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A request that can go to the engine."""

    request: Request
    seen: Callable[[], None] = lambda: None
    """Called once the model has seen its pictures, or never will."""


Prepare = Callable[[], Awaitable[Prepared]]


class Shared:
    """A `Served` with a line before it.

    Args:
        model: what answers.
        queue: how many requests may wait.
        bodies: the room for bodies; who waits for it, waits for a model too.
    """

    def __init__(self, model: Served, queue: int = QUEUE, bodies: Budget | None = None) -> None:
        self._model = model
        self._queue = queue
        self._bodies = bodies or Budget(0)
        self._line = Line(self._seats)

    def stands_for(self, model: Served) -> bool:
        """Return whether this is the line before a model, and not before one of the same name."""
        return self._model is model

    @property
    def name(self) -> str:
        """The name for `model` in the API."""
        return self._model.name

    @property
    def status(self) -> Status:
        """Where it stands."""
        return self._model.status

    @property
    def info(self) -> EngineInfo | None:
        """What its engine said of itself."""
        return self._model.info

    @property
    def standing(self) -> Standing | None:
        """Which fence stands around its engine; None where that is not known."""
        return self._model.standing

    @property
    def tally(self) -> Tally:
        """What became of its requests."""
        return self._model.tally

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The engines that serve it, see `Served`."""
        return self._model.replicas

    @property
    def vitals(self) -> Vitals:
        """The latest signs of progress, with what waits here."""
        vitals = self._model.vitals
        return replace(vitals, waiting=vitals.waiting + self._line.queue.waiting)

    @property
    def stats(self) -> Stats:
        """What its engine last counted, with what waits here."""
        stats = self._model.stats
        return replace(stats, waiting=stats.waiting + self._line.queue.waiting)

    @property
    def full(self) -> bool:
        """Whether the line is full."""
        return self._model.full or self._line.queue.held + self._waiting.total() >= self.most

    @property
    def most(self) -> int:
        """How many requests may run and wait at once: of one that is more, no part is taken."""
        return self._slots + self._queue

    def admit(self, caller: Caller = ANYONE, places: int = 1) -> None:
        """Refuse early what could not wait in the line, or not all of several places.

        Raises:
            ServeError: the engine is not ready.
            OverloadedError: the line is full.
            ShareError: the caller's share of it is.
        """
        self._model.admit()
        self.admit_waiting(caller.name, places)

    def admit_waiting(self, who: str, places: int = 1) -> None:
        """Refuse a request that could not wait: there are enough, or enough of the caller's.

        Raises:
            OverloadedError: the line is full.
            ShareError: the caller's share of it is.
        """
        waiting = self._waiting
        mine, of_mine, of_all = waiting[who], *self._missing(who, places)
        if of_mine or of_all:
            self.tally.refused += 1
        if of_mine:
            retry_s = self._retry_s(who, of_mine, turns=len(waiting))
            raise ShareError(f"{mine} requests of this key are already waiting", retry_s=retry_s)
        if of_all:
            requests = self._line.queue.held + waiting.total()
            raise OverloadedError.full(requests, self._retry_s("", of_all))

    def takes(self, who: str) -> bool:
        """Return whether one more request of a caller could wait."""
        return self._missing(who) == (0, 0)

    def _missing(self, who: str, places: int = 1) -> tuple[int, int]:
        """Return how many places of a caller's share, and of all, have to be free first.

        What others have beyond the share of one counts for nothing: however many one key sends
        while it is alone, the next key finds places. A share is one request's at least, however
        many places that needs.
        """
        queue, waiting, half = self._line.queue, self._waiting, max(1, self._queue // 2)
        mine = waiting.pop(who, 0)
        shared = bool(waiting) or queue.shared_with(who)
        share = max(half, places)
        if shared and mine + places > share:
            return mine + places - share, 0
        theirs = waiting + queue.held_by
        all_of_mine = mine + theirs.pop(who, 0)
        others = sum(min(count, self._slots + half) for count in theirs.values())
        newcomer = shared and not mine and waiting.total() + places <= self._queue + _NEWCOMERS
        over = all_of_mine + others + places - self.most
        return 0, 0 if newcomer else max(0, over)

    @property
    def _waiting(self) -> Counter[str]:
        """How many requests of each caller wait: for a turn, or for room for their bodies."""
        return self._line.queue.waiting_by + self._bodies.waiting_by

    def _retry_s(self, who: str, places: int, *, turns: int = 1) -> float:
        return self._line.turnover.promise(who, places, now_s=time.monotonic(), turns=turns)

    def retry_s(self, who: str) -> float:
        """Return after how many seconds what waits of a caller has had its turns."""
        waiting = self._waiting
        mine = waiting.pop(who, 0)
        return self._retry_s(who, mine, turns=1 + len(waiting))

    @asynccontextmanager
    async def turn(self, caller: Caller, party: Party | None = None) -> AsyncIterator[None]:
        """Wait for a caller's turn at the engine, and hold it until the block ends.

        The first of a party asks for the places of all.

        Raises:
            PackError: as `admit`.
        """
        party = party or Party()
        if not party.joined:
            self.admit(caller, party.size)
        async with self._line.turn(caller.name, party):
            yield

    async def answer(
        self, caller: Caller, prepare: Prepare, party: Party | None = None
    ) -> AsyncGenerator[Event, None]:
        """Wait for a caller's turn, prepare the request, and answer it; closing frees the seat.

        The others of its party follow with the first event.

        Raises:
            PackError: as `admit`, and as `prepare`.
            ServeError: the engine ended meanwhile.
        """
        party = party or Party()
        async with self.turn(caller, party):
            prepared = await prepare()
            del prepare  # and with it the pictures as they came
            events, seen = self._model.generate(prepared.request), prepared.seen
            del prepared  # and with it the pictures as they were decoded
            try:
                async with aclosing(events):
                    async for event in events:
                        seen()
                        self._line.proceed(party)
                        yield event
            finally:
                seen()

    def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer a request whose turn it is, see `turn`."""
        return self._model.generate(request)

    async def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt, see `Served`."""
        return await self._model.tokenize(request)

    async def trace(self, request: Request) -> Trace:
        """Return what becomes of a question on its way through the model, see `Served`."""
        return await self._model.trace(request)

    def _seats(self) -> Seats:
        ahead = min(_AHEAD, self._queue)
        return Seats(self._slots + ahead, kept=ahead + (self._slots >= _MANY_SLOTS))

    @property
    def _slots(self) -> int:
        return self._model.info.slots if self._model.info else 1


class SharedModels(Mapping[str, Shared]):
    """Models that come and go, each with its line before it.

    Args:
        models: by name; looked at anew with every request.
        queue: how many requests may wait for each.
        bodies: the room for bodies.
    """

    def __init__(
        self, models: Mapping[str, Served], queue: int = QUEUE, bodies: Budget | None = None
    ) -> None:
        self._models = models
        self._queue = queue
        self.bodies = bodies or Budget(0)
        self._shared: dict[str, Shared] = {}

    def __getitem__(self, name: str) -> Shared:
        model = self._models[name]
        shared = self._shared.get(name)
        if shared is None or not shared.stands_for(model):
            kept = {name: one for name, one in self._shared.items() if name in self._models}
            self._shared = {**kept, name: (shared := Shared(model, self._queue, self.bodies))}
        return shared

    def admit_body(self, who: str) -> None:
        """Refuse a request whose model is not known yet where no model would let it wait.

        Raises:
            LaterError: none would.
        """
        models = list(self.values())
        if models and not any(shared.takes(who) for shared in models):
            models[0].admit_waiting(who)

    def retry_s(self, who: str) -> float:
        """Return after how many seconds a caller's body may find room."""
        return min((shared.retry_s(who) for shared in self.values()), default=MOST_RETRY_S)

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)
