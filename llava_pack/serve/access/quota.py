"""How much a key may ask: requests in a minute, tokens in a day.

Both are buckets that fill evenly and hold one minute's, or one day's, at most. A request takes one
from the first at once, and one for each further answer that it asks for, once its body is read;
what is not there is owed. What an answer costs is known when it ends: it is taken from the second
then, below zero where many ran at once, and what is owed has to fill up again before the next.
Buckets are full at each start. Where one gateway takes another's place within a start, the
supervisor tells it what was left: whoever brings a gateway down gains no quota by it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from llava_pack.format.errors import ServeError
from llava_pack.serve.access.key import Key

_MINUTE_S, _DAY_S = 60.0, 24 * 3600.0
_UNBOUND = 1e15
"""More than any quota: there is no bound, or nothing was taken yet."""


class QuotaError(ServeError):
    """A key has asked as much as it may for now.

    Args:
        message: which quota.
        retry_s: seconds until the next request is taken, at least 1.
    """

    def __init__(self, message: str, *, retry_s: int) -> None:
        super().__init__(message, hint=f"try again in {retry_s} s")
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
        clock: monotonic seconds, the same in every process of a machine.
        left: what an earlier gateway told by `changes`, by key.
    """

    def __init__(
        self, clock: Callable[[], float], left: Mapping[str, tuple[float, ...]] | None = None
    ) -> None:
        self._clock = clock
        self._requests: dict[str, Bucket] = {}
        self._tokens: dict[str, Bucket] = {}
        self._left = dict(left or {})
        self._changed: dict[str, None] = {}

    def changes(self, most: int) -> dict[str, tuple[float, ...]]:
        """Return what is left of keys that asked since this was last called, as `left` takes it.

        Args:
            most: so many keys at once; the others are told next time.
        """
        told = list(self._changed)[:most]
        for key_id in told:
            del self._changed[key_id]
        return {key_id: self._told(key_id) for key_id in told}

    def _told(self, key_id: str) -> tuple[float, ...]:
        """Return when, and what was left then of requests and tokens; infinite where unbounded."""
        now_s = self._clock()
        buckets = (each.get(key_id) for each in (self._requests, self._tokens))
        return now_s, *(each.later(now_s).level if each else _UNBOUND for each in buckets)

    def admit(self, key: Key) -> None:
        """Take one request of a key.

        Raises:
            QuotaError: there is none left, or its tokens are used up.
        """
        tokens = self._filled(self._tokens, key.id, key.quota.tokens_per_day, _DAY_S)
        if tokens is not None and (wait_s := tokens.wait_s):
            raise QuotaError(
                f"{key.quota.tokens_per_day} tokens per day are used up", retry_s=wait_s
            )
        requests = self._filled(self._requests, key.id, key.quota.requests_per_min, _MINUTE_S)
        if requests is None:
            return
        if wait_s := requests.wait_s:
            raise QuotaError(
                f"{key.quota.requests_per_min} requests per minute are used up", retry_s=wait_s
            )
        self._requests[key.id] = requests.less(1)
        self._changed[key.id] = None

    def take(self, key: Key, requests: int) -> None:
        """Take further requests of a key, of which is known only now; what is missing is owed."""
        left = self._filled(self._requests, key.id, key.quota.requests_per_min, _MINUTE_S)
        if left is not None:
            self._requests[key.id] = left.less(requests)
            self._changed[key.id] = None

    def charge(self, key: Key, tokens: int) -> None:
        """Take the tokens of an answer."""
        left = self._filled(self._tokens, key.id, key.quota.tokens_per_day, _DAY_S)
        if left is not None:
            self._tokens[key.id] = left.less(tokens)
            self._changed[key.id] = None

    def _filled(
        self, buckets: dict[str, Bucket], key_id: str, capacity: int, every_s: float
    ) -> Bucket | None:
        """Return a key's bucket as it is now, None where it has no bound."""
        if not capacity:
            return None
        now_s = self._clock()
        known = buckets.get(key_id)
        if known is None:
            known = Bucket.full(capacity, every_s, now_s)
            at_s, *levels = self._left.get(key_id, (now_s, _UNBOUND, _UNBOUND))
            level = levels[buckets is self._tokens]
            known = replace(known, level=min(capacity, level), at_s=min(at_s, now_s))
        return known.later(now_s)
