"""Whether a process that gives signs of life still moves.

Silence is counted in looks, each worth a bounded time: where the one who looks was stopped itself,
or the whole machine slept, nothing is held against the other.
"""

import time
from collections.abc import Callable

_LOOK_MOST_S = 1.0


class Heartbeat:
    """The signs of life of one process.

    Args:
        bound_s: how long it may be silent.
        look_most_s: the most that one look is worth; looks are to be closer than that.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        bound_s: float,
        *,
        look_most_s: float = _LOOK_MOST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bound_s = bound_s
        """How long it may be silent; it may change while the process lives."""
        self.silent_s = 0.0
        """How long it has been silent."""
        self._look_most_s = look_most_s
        self._clock = clock
        self._looked_s = clock()

    def heard(self) -> None:
        """Take a sign of life."""
        self.silent_s, self._looked_s = 0.0, self._clock()

    def look(self) -> None:
        """Count the time since the last look, or the last sign of life."""
        now_s = self._clock()
        self.silent_s += min(now_s - self._looked_s, self._look_most_s)
        self._looked_s = now_s

    @property
    def stalled(self) -> bool:
        """Return whether something is wrong."""
        return self.silent_s > self.bound_s
