"""A line to wait in, on the event loop: a `FairQueue` says whose turn it is."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from llava_pack.serve.admission.fair_queue import FairQueue, Party, Seats, Ticket
from llava_pack.serve.admission.turnover import Turnover

_LOOK_AGAIN_S = 5.0


class Line:
    """A `FairQueue` to wait in.

    Args:
        seats: asked for at every turn how many there are.
    """

    def __init__(self, seats: Callable[[], Seats]) -> None:
        self._seats = seats
        self._queue = FairQueue(seats())
        self.turnover = Turnover()
        """How fast it moves."""
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

    async def enter(self, who: str, party: Party | None = None) -> Ticket:
        """Wait for a caller's turn; the ticket is to be handed to `leave`."""
        ticket = self._queue.join(who, time.monotonic(), party)
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
        now_s = time.monotonic()
        self._queue.leave(ticket, now_s)
        if ticket.seated:
            self.turnover.ends(now_s)
        self._move()
        if not (self._queue.held or self._queue.waiting):
            self.turnover.rests(now_s)

    @asynccontextmanager
    async def turn(self, who: str, party: Party | None = None) -> AsyncIterator[None]:
        """Wait for a caller's turn, and hold the seat until the block ends."""
        ticket = await self.enter(who, party)
        try:
            yield
        finally:
            self.leave(ticket)

    def proceed(self, party: Party) -> None:
        """Let a party's others into the line: its first is under way."""
        if party.followers:
            self._queue.proceed(party, time.monotonic())
            self._move()

    def _move(self) -> None:
        self._queue.seats = self._seats()
        now_s = time.monotonic()
        for ticket in self._queue.seat(now_s):
            self.turnover.begins(now_s)
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
