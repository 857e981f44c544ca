"""Whether an engine moves: judged from what it last said, and when. Pure, the clock is given.

There is no alarm for being busy. An engine has stalled when there is work and no step has ended
for longer than any healthy step takes, or when its process does not even answer. The longest step
that ended well, a long prompt on a slow machine, widens the bound.
"""

import time
from collections.abc import Callable

from llava_pack.engine.stats import Stats
from llava_pack.serve.port import Vitals

STALL_S = 60.0
SILENT_S = 5.0
_SLOWER = 3
_MOST = 10


class Pulse:
    """The signs of life of one engine process.

    Args:
        stall_s: how long a step may take before anything was measured.
        clock: seconds that only grow.
    """

    def __init__(
        self, stall_s: float = STALL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stall_s = stall_s
        self._clock = clock
        self._heard_s: float | None = None
        self._longest_s = 0.0
        self.stats = Stats()
        """What it last said."""

    def begin(self) -> None:
        """Expect answers from now on."""
        self._heard_s, self.stats = self._clock(), Stats()

    def end(self) -> None:
        """Expect nothing: there is no engine to answer."""
        self._heard_s = None

    def hear(self, stats: Stats) -> None:
        """Take an answer."""
        if stats.steps > self.stats.steps:
            self._longest_s = max(self._longest_s, self.stats.last_step_age_s)
        self._heard_s, self.stats = self._clock(), stats

    @property
    def vitals(self) -> Vitals:
        """Return the signs of progress as they stand now."""
        silent_s = self._clock() - self._heard_s if self._heard_s is not None else 0.0
        late_s = silent_s if silent_s > SILENT_S else 0.0
        age_s = self.stats.last_step_age_s if self._heard_s is not None else 0.0
        return Vitals(
            steps=self.stats.steps,
            running=self.stats.running,
            waiting=self.stats.waiting,
            stalled_s=max(age_s, late_s),
            bound_s=max(self._stall_s, min(_SLOWER * self._longest_s, _MOST * self._stall_s)),
        )
