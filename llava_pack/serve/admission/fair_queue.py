"""Whose turn it is: seats are shared among the callers, however many requests each has. Pure.

Of callers who wait, the one with the fewest seats is next; of several without one, the one whose
last turn is longest ago, and of several with as many, the one that had less of the time lately.
Turns are not counted: whoever asks what takes long would have most of the time by having every
second turn.

A seat is free again when its answer ends, and not when somebody else comes. So what others needed
lately is kept free for them, up to an equal share; and beyond that, while more than one caller is
around, the last free seats go only to somebody who has none: whoever comes meanwhile finds one.
"""

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

_AROUND_S = 60.0
_LATELY_S = 10.0


class Seats(NamedTuple):
    """How many seats there are, and how many of them are kept for who has none."""

    total: int
    kept: int = 0


@dataclass(slots=True)
class _Lately:
    """What a caller was seen to need: the most requests at once, for a while after it was so."""

    seen_s: float
    needed: int = 1
    needed_s: float = 0.0
    turn: int = 0
    """The number of its last turn; whoever had none comes first."""
    turn_s: float = 0.0
    """When that was."""
    _used_s: float = 0.0
    _used_at_s: float = 0.0

    def needs(self, count: int, now_s: float) -> None:
        self.seen_s = now_s
        if count >= self.needed or now_s - self.needed_s > _AROUND_S:
            self.needed, self.needed_s = max(1, count), now_s

    def uses(self, seconds: float, now_s: float) -> None:
        self._used_s, self._used_at_s = self.used_s(now_s) + seconds, now_s

    def used_s(self, now_s: float) -> float:
        """Return the time on seats that have ended; what is a while ago counts less."""
        return self._used_s * math.exp((self._used_at_s - now_s) / _LATELY_S)


@dataclass(eq=False, slots=True)
class Party:
    """Requests that ask the same: the others come into the line once the first is under way."""

    size: int = 1
    keeps: bool = False
    """Whether it holds what those on other seats may wait for: then it keeps one till its end."""
    joined: bool = False
    """Whether the first of them has come."""
    seats: int = 0
    """How many it has."""
    followers: list["Ticket"] = field(default_factory=list)
    """Those that are not in the line yet."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One request in the line, or on a seat."""

    who: str
    since_s: float
    party: Party = field(default_factory=Party)
    seated: bool = False
    seated_s: float = 0.0


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
        self._following: Counter[str] = Counter()
        self._heirs: list[Ticket] = []
        self._lately: dict[str, _Lately] = {}
        self._turns = 0

    @property
    def waiting(self) -> int:
        """How many tickets wait."""
        return self._following.total() + sum(map(len, self._lines.values()))

    @property
    def held(self) -> int:
        """How many seats are taken."""
        return self._held.total()

    @property
    def waiting_by(self) -> Counter[str]:
        """How many tickets of each caller wait."""
        return self._following + Counter({who: len(line) for who, line in self._lines.items()})

    @property
    def held_by(self) -> Counter[str]:
        """How many seats each caller has."""
        return self._held

    def shared_with(self, who: str) -> bool:
        """Return whether anybody but a caller waits or has a seat."""
        return any(other != who for other in (*self._lines, *self._held))

    def oldest_s(self, now_s: float) -> float:
        """Return how long somebody has waited for a turn of theirs; 0 where nobody waits.

        Who has a seat had a turn: many requests of one key that wait for each other are no sign
        that something is wrong.
        """
        return max((now_s - self._waits_since_s(who) for who in self._lines), default=0.0)

    def _waits_since_s(self, who: str) -> float:
        came_s = self._lines[who][0].since_s
        return max(came_s, self._lately[who].turn_s) if self._held[who] else came_s

    def join(self, who: str, now_s: float, party: Party | None = None) -> Ticket:
        """Return a new ticket at the end of its caller's line.

        Args:
            who: the caller's name.
            now_s: seconds that only grow.
            party: that it belongs to; all but its first wait beside the line until `proceed`.
        """
        ticket = Ticket(who, now_s, party or Party())
        if ticket.party.joined:
            ticket.party.followers.append(ticket)
            self._following[who] += 1
        else:
            ticket.party.joined = True
            self._line_up(ticket, now_s)
        return ticket

    def proceed(self, party: Party, now_s: float) -> None:
        """Let a party's others into the line: its first is under way."""
        for ticket in party.followers:
            self._line_up(ticket, now_s)
            self._following[ticket.who] -= 1
        party.followers.clear()
        self._following += Counter()  # drops what is zero

    def _line_up(self, ticket: Ticket, now_s: float) -> None:
        who = ticket.who
        self._lines.setdefault(who, deque()).append(ticket)
        wanted = self._held[who] + len(self._lines[who])
        self._lately.setdefault(who, _Lately(now_s)).needs(wanted, now_s)

    def leave(self, ticket: Ticket, now_s: float) -> None:
        """Take a ticket out of the line, or off its seat."""
        caller = self._lately[ticket.who]
        caller.seen_s = now_s
        if ticket.seated:
            caller.uses(now_s - ticket.seated_s, now_s)
            self._held[ticket.who] -= 1
            self._held += Counter()  # drops what is zero
            ticket.party.seats -= 1
            self._pass_on(ticket.party, ticket.who, now_s)
        elif ticket in ticket.party.followers:
            ticket.party.followers.remove(ticket)
            self._following[ticket.who] -= 1
            self._following += Counter()
        else:
            self._take_out(ticket)

    def _pass_on(self, party: Party, who: str, now_s: float) -> None:
        """Give a party that keeps a seat the one that it just left, if it has no other."""
        self.proceed(party, now_s)
        if not party.keeps or party.seats:
            return
        heir = next((one for one in self._lines.get(who, ()) if one.party is party), None)
        if heir is not None:
            self._sit(heir, now_s)
            self._heirs.append(heir)

    def _take_out(self, ticket: Ticket) -> None:
        self._lines[ticket.who].remove(ticket)
        if not self._lines[ticket.who]:
            del self._lines[ticket.who]

    def _sit(self, ticket: Ticket, now_s: float) -> None:
        who = ticket.who
        self._take_out(ticket)
        ticket.seated, ticket.seated_s = True, now_s
        ticket.party.seats += 1
        self._held[who] += 1
        self._turns += 1
        self._lately[who].turn, self._lately[who].turn_s = self._turns, now_s

    def seat(self, now_s: float) -> list[Ticket]:
        """Return the tickets whose turn has come, and seat them."""
        seated, self._heirs = self._heirs, []
        while (who := self._next(now_s)) is not None:
            seated.append(ticket := self._lines[who][0])
            self._sit(ticket, now_s)
        return seated

    def _next(self, now_s: float) -> str | None:
        free = self.seats.total - self.held
        if free < 1:
            return None
        self._forget(now_s)
        owed = sum(max(0, self._share(who) - self._held[who]) for who in self._lately)
        in_order = sorted(self._lines, key=lambda who: self._place(who, now_s))
        return next((who for who in in_order if self._may_sit(who, free, owed)), None)

    def _place(self, who: str, now_s: float) -> tuple[int, float]:
        held, caller = self._held[who], self._lately[who]
        return held, caller.used_s(now_s) if held else caller.turn

    def _may_sit(self, who: str, free: int, owed: int) -> bool:
        """Return whether a caller may have one of the free seats, of which others are owed some."""
        if not self._held[who] or len(self._lately) == 1:
            return True
        kept = self.seats.kept
        if self._held[who] < self._share(who):
            return free > max(0, kept - 1)
        owed = min(owed, (self.seats.total - kept) // 2)  # many who come rarely idle no more
        # One that is owed to somebody may be the one that is kept for whoever comes.
        return free > (max(kept, owed) if owed < 2 else kept + owed)

    def _share(self, who: str) -> int:
        """Return how many seats are a caller's own: what it needs, up to an equal share."""
        equal = (self.seats.total - max(0, self.seats.kept - 1)) // len(self._lately)
        return min(self._lately[who].needed, max(1, equal))

    def _forget(self, now_s: float) -> None:
        """Forget who was not seen for a while."""
        for gone in [name for name, one in self._lately.items() if now_s - one.seen_s > _AROUND_S]:
            if gone not in self._lines and gone not in self._held:
                del self._lately[gone]
