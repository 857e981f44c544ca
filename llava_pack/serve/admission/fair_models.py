"""A model that its callers share: one line before the engine, seats in turn, and a share each.

The engine's own queue knows no callers: whoever asks forty times would have the other one wait for
all of it. So a request waits here, and goes to the engine when a slot is about to be free. Its
pictures are decoded only then: what waits in the line holds none.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

from llava_pack.engine.fence.value import Standing
from llava_pack.engine.measures import Trace
from llava_pack.engine.port import EngineInfo, Event, Request
from llava_pack.engine.stats import Stats
from llava_pack.serve.admission.fair_queue import FairQueue, Seats, Ticket
from llava_pack.serve.caller import ANYONE, Caller
from llava_pack.serve.care import QUEUE
from llava_pack.serve.counters import Tally
from llava_pack.serve.port import TRY_AGAIN, OverloadedError, Served, ShareError, Status, Vitals

_AHEAD = 2
"""Requests more than slots that are at the engine, so that a free slot has its next one there."""
_MANY_SLOTS = 4
"""From here on, one slot stays free for callers who have none, while others are around."""
_NEWCOMERS = 64
"""Callers without a request in the line who still find room in a full one."""
_LOOK_AGAIN_S = 5.0


class Line:
    """A `FairQueue` to wait in.

    Args:
        seats: asked for at every turn how many there are.
    """

    def __init__(self, seats: Callable[[], Seats]) -> None:
        self._seats = seats
        self._queue = FairQueue(seats())
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        self._look_again: asyncio.TimerHandle | None = None

    @property
    def queue(self) -> FairQueue:
        """Who waits, and who has a seat."""
        return self._queue

    @property
    def oldest_s(self) -> float:
        """How long the first in the line has waited."""
        return self._queue.oldest_s(time.monotonic())

    async def enter(self, who: str) -> Ticket:
        """Wait for a caller's turn; the ticket is to be handed to `leave`."""
        ticket = self._queue.join(who, time.monotonic())
        self._turns[ticket] = turn = asyncio.get_running_loop().create_future()
        self._move()
        try:
            await turn
        except BaseException:
            self.leave(ticket)
            raise
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give up a seat, or the place in the line."""
        self._turns.pop(ticket, None)
        self._queue.leave(ticket, time.monotonic())
        self._move()

    @asynccontextmanager
    async def turn(self, who: str) -> AsyncIterator[None]:
        """Wait for a caller's turn, and hold the seat until the block ends."""
        ticket = await self.enter(who)
        try:
            yield
        finally:
            self.leave(ticket)

    def _move(self) -> None:
        self._queue.seats = self._seats()
        for ticket in self._queue.seat(time.monotonic()):
            turn = self._turns.pop(ticket)
            if not turn.done():
                turn.set_result(None)
        if self._queue.waiting and self._queue.held < self._queue.seats.total:
            self._later()

    def _later(self) -> None:
        """Look again after a while: what is kept for others is free once they are forgotten."""
        if self._look_again is not None:
            self._look_again.cancel()
        self._look_again = asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._move)


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
    """

    def __init__(self, model: Served, queue: int = QUEUE) -> None:
        self._model = model
        self._queue = queue
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
        return self._model.full or self._queue_is_full()

    def admit(self, caller: Caller = ANYONE) -> None:
        """Refuse early what could not wait in the line.

        Raises:
            ServeError: the engine is not ready.
            OverloadedError: the line is full.
            ShareError: the caller's share of it is.
        """
        self._model.admit()
        queue, who = self._line.queue, caller.name
        mine, shared = queue.waiting_of(who), queue.shared_with(who)
        if shared and mine >= max(1, self._queue // 2):
            self.tally.refused += 1
            raise ShareError(f"{mine} requests of this key are already waiting", hint=TRY_AGAIN)
        newcomer = shared and not mine and queue.waiting < self._queue + _NEWCOMERS
        if self._queue_is_full() and not newcomer:
            self.tally.refused += 1
            raise OverloadedError.full(queue.held + queue.waiting)

    @asynccontextmanager
    async def turn(self, caller: Caller) -> AsyncIterator[None]:
        """Wait for a caller's turn at the engine, and hold it until the block ends.

        Raises:
            PackError: as `admit`.
        """
        self.admit(caller)
        async with self._line.turn(caller.name):
            yield

    async def answer(self, caller: Caller, prepare: Prepare) -> AsyncGenerator[Event, None]:
        """Wait for a caller's turn, prepare the request, and answer it; closing frees the seat.

        Raises:
            PackError: as `admit`, and as `prepare`.
            ServeError: the engine ended meanwhile.
        """
        async with self.turn(caller):
            prepared = await prepare()
            del prepare  # and with it the pictures as they came
            events, seen = self._model.generate(prepared.request), prepared.seen
            del prepared  # and with it the pictures as they were decoded
            try:
                async with aclosing(events):
                    async for event in events:
                        seen()
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

    def _queue_is_full(self) -> bool:
        """Return whether as many wait, here and at the engine, as may."""
        queue = self._line.queue
        return queue.held + queue.waiting >= self._slots + self._queue

    @property
    def _slots(self) -> int:
        return self._model.info.slots if self._model.info else 1


class SharedModels(Mapping[str, Shared]):
    """Models that come and go, each with its line before it.

    Args:
        models: by name; looked at anew with every request.
        queue: how many requests may wait for each.
    """

    def __init__(self, models: Mapping[str, Served], queue: int = QUEUE) -> None:
        self._models = models
        self._queue = queue
        self._shared: dict[str, Shared] = {}

    def __getitem__(self, name: str) -> Shared:
        model = self._models[name]
        shared = self._shared.get(name)
        if shared is None or not shared.stands_for(model):
            kept = {name: one for name, one in self._shared.items() if name in self._models}
            self._shared = {**kept, name: (shared := Shared(model, self._queue))}
        return shared

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)
