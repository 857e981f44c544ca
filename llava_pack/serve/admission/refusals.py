"""What was refused, counted: for `/metrics`, and for one line a minute in the log.

Whoever has no token can be refused as often as they like. A line for each would push out of a
bounded log what happened to others, and a path may hold what its sender took for a key.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable

_log = logging.getLogger(__name__)
COUNTED = frozenset({400, 401, 403, 404, 405, 408, 413, 421, 429})
"""Statuses that a client brings about at will."""
CONNECTIONS = (
    "accept_errors",
    "bad_requests",
    "body_timeouts",
    "header_timeouts",
    "idle_closed",
    "too_many",
    "unread_answers",
)
"""What becomes of connections without a request that could be answered."""
_EVERY_S = 60.0


class Refusals:
    """Counters since `serve` began.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said_s = clock()
        self._unsaid: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        """Answers by status."""
        self.connections: Counter[str] = Counter()
        """Connections by what became of them, see `CONNECTIONS`."""

    def answered(self, status: int) -> bool:
        """Count an answer, and return whether it is of those that are counted alone."""
        if status not in COUNTED:
            return False
        self.statuses[status] += 1
        self._take(str(status))
        return True

    def connection(self, what: str) -> None:
        """Count what became of a connection."""
        self.connections[what] += 1
        self._take(what)

    def _take(self, what: str) -> None:
        self._unsaid[what] += 1
        now_s = self._clock()
        if now_s - self._said_s >= _EVERY_S:
            told = ", ".join(f"{count} x {name}" for name, count in sorted(self._unsaid.items()))
            _log.info("refused in the last %.0f s: %s", now_s - self._said_s, told)
            self._said_s = now_s
            self._unsaid.clear()
