"""When a place in a line will be free: what whoever finds it full is told. Pure.

Places become free as requests end, so the time between two ends is measured while there is work.
Whoever is told to come back is counted as coming: the next one is told the time after it, and not
all of them the same.
"""

from collections import deque

from llava_pack.serve.port import MOST_RETRY_S

_LAST = 32
_UNKNOWN_S = 2.0
"""Between two ends, before there was any."""


class Turnover:
    """How fast requests end.

    >>> turnover = Turnover()
    >>> turnover.begins(0.0); turnover.ends(3.0); turnover.ends(6.0)
    >>> turnover.promise("", 1, now_s=6.0), turnover.promise("", 1, now_s=6.0)
    (3.0, 6.0)
    """

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=_LAST)
        self._since_s: float | None = None
        self._usual_s = _UNKNOWN_S
        self._promised: dict[str, float] = {}

    def begins(self, now_s: float) -> None:
        """Note that there is work; after a pause it is measured anew."""
        if self._since_s is None:
            self._since_s = now_s

    def ends(self, now_s: float) -> None:
        """Note that a request ended."""
        if len(self._ends) == _LAST:
            self._since_s = self._ends[0]
        self._ends.append(now_s)

    def rests(self, now_s: float) -> None:
        """Note that there is no work left."""
        self._usual_s = self.gap_s(now_s)
        self._ends.clear()
        self._since_s = None

    def gap_s(self, now_s: float) -> float:
        """Return the seconds between two ends; what has not ended yet may make it longer."""
        if self._since_s is None:
            return self._usual_s
        if not self._ends:
            return max(self._usual_s, now_s - self._since_s)
        done_s = (self._ends[-1] - self._since_s) / len(self._ends)
        return max(done_s, (now_s - self._since_s) / (len(self._ends) + 1))

    def promise(self, who: str, places: int, *, now_s: float, turns: int = 1) -> float:
        """Return the seconds after which a request may be sent again, at most `MOST_RETRY_S`.

        Args:
            who: waits for a place of their own; empty for one of all.
            places: that have to be free first.
            now_s: seconds that only grow.
            turns: how many share the places that become free.
        """
        self._promised = {one: due_s for one, due_s in self._promised.items() if due_s > now_s}
        wait_s = max(1, places) * turns * self.gap_s(now_s)
        due_s = max(now_s, self._promised.get(who, now_s)) + wait_s
        if due_s - now_s > MOST_RETRY_S:
            return MOST_RETRY_S
        self._promised[who] = due_s
        return due_s - now_s
