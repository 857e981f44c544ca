"""Memory that requests may hold together: who asks for more than is left waits until some is back.

One caller may hold a share at most, so that what one holds never keeps the others waiting.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass


@dataclass(eq=False)
class _Waiting:
    who: str
    amount: int
    granted: asyncio.Event


class Budget:
    """Bytes that are held at once.

    Args:
        total: of all callers together.
        share: of one caller; a single request may not ask for more.
    """

    def __init__(self, total: int, share: int | None = None) -> None:
        self._total = total
        self._share = total if share is None else share
        self._held: Counter[str] = Counter()
        self._waiting: list[_Waiting] = []

    @property
    def held(self) -> int:
        """How much is held now."""
        return self._held.total()

    @property
    def waiting(self) -> int:
        """How many wait for some."""
        return len(self._waiting)

    @property
    def waiting_by(self) -> Counter[str]:
        """How many requests of each caller wait for some."""
        return Counter(asked.who for asked in self._waiting)

    async def take(self, who: str, amount: int) -> "Holding":
        """Wait until so much is free for a caller, and return it as held.

        Args:
            who: the caller's name.
            amount: what is asked for; of more than a share, the share is held.
        """
        asked = _Waiting(who, min(amount, self._share), asyncio.Event())
        self._waiting.append(asked)
        self._grant()
        try:
            await asked.granted.wait()
        except BaseException:
            if asked.granted.is_set():
                self.give(who, asked.amount)
            else:
                self._waiting.remove(asked)
                self._grant()
            raise
        return Holding(self, who, asked.amount)

    def give(self, who: str, amount: int) -> None:
        """Give something back."""
        self._held[who] -= amount
        if self._held[who] <= 0:
            del self._held[who]
        self._grant()

    def _grant(self) -> None:
        """Grant in the order of asking; a caller whose share is used up is passed over."""
        passed: set[str] = set()
        for asked in list(self._waiting):
            if asked.who in passed or self._held[asked.who] + asked.amount > self._share:
                passed.add(asked.who)
                continue
            if self.held + asked.amount > self._total:
                return
            self._held[asked.who] += asked.amount
            self._waiting.remove(asked)
            asked.granted.set()


class Holding:
    """What one request holds; given back once, however often that is asked for."""

    def __init__(self, budget: Budget, who: str, amount: int) -> None:
        self._budget = budget
        self._who = who
        self._amount = amount

    def keep(self, amount: int) -> None:
        """Give back all but so much."""
        more, self._amount = max(0, self._amount - amount), min(self._amount, amount)
        self._budget.give(self._who, more)

    def give_back(self) -> None:
        """Give back what is still held."""
        if self._amount:
            amount, self._amount = self._amount, 0
            self._budget.give(self._who, amount)
