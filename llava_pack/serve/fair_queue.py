"""Whose turn it is: seats go round the callers, however many requests each of them has. Pure.

Of callers who wait, the one whose last turn is longest ago is next. While more than one caller is
around, the last free seats go only to somebody who has none: whoever comes meanwhile finds one.
"""

from collections import Counter, deque
from dataclasses import dataclass
from typing import NamedTuple

_AROUND_S = 60.0


class Seats(NamedTuple):
    """How many seats there are, and how many of them are kept for who has none."""

    total: int
    kept: int = 0


@dataclass(eq=False, slots=True)
class Ticket:
    """One request in the line, or on a seat."""

    who: str
    since_s: float
    seated: bool = False


class FairQueue:
    """Tickets that wait for seats.

    Args:
        seats: may be changed at any time.

    >>> line = FairQueue(Seats(1))
    >>> first = [line.join("ann", 0) for _ in range(3)][0]
    >>> line.seat(0) == [first]
    True
    >>> _ = line.join("bob", 0)
    >>> line.leave(first, 1)
    >>> [ticket.who for ticket in line.seat(1)]
    ['bob']
    """

    def __init__(self, seats: Seats) -> None:
        self.seats = seats
        self._lines: dict[str, deque[Ticket]] = {}
        self._held: Counter[str] = Counter()
        self._seen_s: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """How many tickets wait."""
        return sum(map(len, self._lines.values()))

    @property
    def held(self) -> int:
        """How many seats are taken."""
        return self._held.total()

    def waiting_of(self, who: str) -> int:
        """Return how many tickets of a caller wait."""
        return len(self._lines.get(who, ()))

    def shared_with(self, who: str) -> bool:
        """Return whether anybody but a caller waits or has a seat."""
        return any(other != who for other in (*self._lines, *self._held))

    def oldest_s(self, now_s: float) -> float:
        """Return how long the ticket that came first has waited; 0 where none waits."""
        return max((now_s - line[0].since_s for line in self._lines.values()), default=0.0)

    def join(self, who: str, now_s: float) -> Ticket:
        """Return a new ticket at the end of its caller's line."""
        ticket = Ticket(who, now_s)
        # A caller without a line goes behind the others: it moves there with every turn, too.
        self._lines.setdefault(who, deque()).append(ticket)
        self._seen_s[who] = now_s
        return ticket

    def leave(self, ticket: Ticket, now_s: float) -> None:
        """Take a ticket out of the line, or off its seat."""
        self._seen_s[ticket.who] = now_s
        if ticket.seated:
            self._held[ticket.who] -= 1
            self._held += Counter()  # drops what is zero
            return
        self._lines[ticket.who].remove(ticket)
        if not self._lines[ticket.who]:
            del self._lines[ticket.who]

    def seat(self, now_s: float) -> list[Ticket]:
        """Return the tickets whose turn has come, and seat them."""
        seated: list[Ticket] = []
        while (who := self._next(now_s)) is not None:
            line = self._lines.pop(who)
            ticket = line.popleft()
            if line:
                self._lines[who] = line  # behind all the others
            ticket.seated = True
            self._held[who] += 1
            seated.append(ticket)
        return seated

    def _next(self, now_s: float) -> str | None:
        free = self.seats.total - self.held
        if free < 1:
            return None
        kept = free <= self.seats.kept
        return next(
            (who for who in self._lines if not (kept and self._has_enough(who, now_s))), None
        )

    def _has_enough(self, who: str, now_s: float) -> bool:
        return self._held[who] > 0 and self._others(who, now_s)

    def _others(self, who: str, now_s: float) -> bool:
        """Return whether somebody else was around lately."""
        for gone in [name for name, at_s in self._seen_s.items() if now_s - at_s > _AROUND_S]:
            if gone not in self._lines and gone not in self._held:
                del self._seen_s[gone]
        return any(name != who for name in self._seen_s)
