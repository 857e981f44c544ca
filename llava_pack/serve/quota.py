"""How much a key may ask: requests in a minute, tokens in a day.

Both are buckets that fill evenly and hold one minute's, or one day's, at most. A request takes one
from the first at once. What an answer costs is known when it ends: it is taken from the second
then, below zero where many ran at once, and what is owed has to fill up again before the next.
Buckets are full at each start.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from llava_pack.format.errors import ServeError
from llava_pack.serve.keys import Key

_MINUTE_S, _DAY_S = 60.0, 24 * 3600.0


class QuotaError(ServeError):
    """A key has asked as much as it may for now.

    Args:
        message: which quota.
        retry_s: seconds until the next request is taken, at least 1.
    """

    def __init__(self, message: str, *, retry_s: int) -> None:
        super().__init__(message, hint=f"ask again in {retry_s} s")
        self.retry_s = retry_s


@dataclass(frozen=True, slots=True)
class Bucket:
    """What may still be taken: `level` at `at_s`, and `capacity` more every `every_s`."""

    capacity: int
    every_s: float
    level: float
    at_s: float

    @classmethod
    def full(cls, capacity: int, every_s: float, now_s: float) -> "Bucket":
        """Return a bucket that nothing was taken from."""
        return cls(capacity, every_s, capacity, now_s)

    def later(self, now_s: float) -> "Bucket":
        """Return the bucket at another time; a clock that goes back takes nothing away.

        >>> Bucket(60, 60.0, 0.0, 0.0).later(7.5).level
        7.5
        """
        gained = max(0.0, now_s - self.at_s) * self.capacity / self.every_s
        return replace(self, level=min(self.capacity, self.level + gained), at_s=now_s)

    def less(self, amount: float) -> "Bucket":
        """Return the bucket after something was taken; below zero it is owed."""
        return replace(self, level=self.level - amount)

    @property
    def wait_s(self) -> int:
        """Whole seconds until there is at least one in it.

        >>> Bucket(60, 60.0, 1.0, 0.0).wait_s, Bucket(60, 60.0, -3.5, 0.0).wait_s
        (0, 5)
        """
        missing = 1 - self.level
        return max(1, math.ceil(missing * self.every_s / self.capacity)) if missing > 0 else 0


class Books:
    """What each key has taken.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._requests: dict[str, Bucket] = {}
        self._tokens: dict[str, Bucket] = {}

    def admit(self, key: Key) -> None:
        """Take one request of a key.

        Raises:
            QuotaError: there is none left, or its tokens are used up.
        """
        tokens = self._filled(self._tokens, key.id, key.quota.tokens_per_day, _DAY_S)
        if tokens is not None and (wait_s := tokens.wait_s):
            raise QuotaError(f"{key.quota.tokens_per_day} tokens a day are used up", retry_s=wait_s)
        requests = self._filled(self._requests, key.id, key.quota.requests_per_min, _MINUTE_S)
        if requests is None:
            return
        if wait_s := requests.wait_s:
            raise QuotaError(
                f"{key.quota.requests_per_min} requests a minute are used up", retry_s=wait_s
            )
        self._requests[key.id] = requests.less(1)

    def charge(self, key: Key, tokens: int) -> None:
        """Take the tokens of an answer."""
        left = self._filled(self._tokens, key.id, key.quota.tokens_per_day, _DAY_S)
        if left is not None:
            self._tokens[key.id] = left.less(tokens)

    def _filled(
        self, buckets: dict[str, Bucket], key_id: str, capacity: int, every_s: float
    ) -> Bucket | None:
        """Return a key's bucket as it is now, None where it has no bound."""
        if not capacity:
            return None
        now_s = self._clock()
        known = buckets.get(key_id)
        return known.later(now_s) if known else Bucket.full(capacity, every_s, now_s)
