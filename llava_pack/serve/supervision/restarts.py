"""How long a process that ended rests before it is started again: longer each time."""

import time
from collections.abc import Callable

from llava_pack.serve.care import RESTS_S

_STEADY_S = 120.0


class Restarts:
    """The ends of one process that is started again and again.

    Args:
        rests_s: how long it rests after the first end, the second and so on; the last one stays.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        rests_s: tuple[float, ...] = RESTS_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rests_s = rests_s
        self._clock = clock
        self._began_s = clock()
        self._in_a_row = 0
        self.count = 0
        """How often it ended and was to be started again."""

    def begin(self) -> None:
        """Take note that it is started."""
        self._began_s = self._clock()

    def rest_s(self) -> float:
        """Take note that it ended, and return how long it rests; a long life makes good again."""
        steady = self._clock() - self._began_s > _STEADY_S
        self._in_a_row = 1 if steady else self._in_a_row + 1
        self.count += 1
        return self._rests_s[min(self._in_a_row, len(self._rests_s)) - 1]
