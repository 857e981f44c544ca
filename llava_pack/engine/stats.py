"""Counters of a running engine, as values: what its work was, and how long people waited for it."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from operator import add

WAIT_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
GAP_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
)  # fmt: skip
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Upper bounds of buckets. Source: vllm v1/metrics/loggers.py, so that its dashboards fit."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Values counted in buckets.

    Attributes:
        bounds: the buckets' upper bounds, which belong to them.
        counts: values in each bucket alone; one more than bounds, for what lies above them.
        total: the sum of the values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...] = ()
    total: float = 0.0

    def __post_init__(self) -> None:
        if not self.counts:
            object.__setattr__(self, "counts", (0,) * (len(self.bounds) + 1))

    @property
    def count(self) -> int:
        """Return how many values there were."""
        return sum(self.counts)

    def with_value(self, value: float) -> "Histogram":
        """Return the histogram with one value more.

        >>> Histogram((1, 10)).with_value(10).with_value(11).counts
        (0, 1, 1)
        """
        counts = list(self.counts)
        counts[bisect_left(self.bounds, value)] += 1
        return replace(self, counts=tuple(counts), total=self.total + value)

    def __add__(self, other: "Histogram") -> "Histogram":
        """Return the values of both; of another one's other buckets only where they are ours."""
        if other.bounds != self.bounds:
            return self
        counts = tuple(map(add, self.counts, other.counts))
        return replace(self, counts=counts, total=self.total + other.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an engine did since it started, and what its cache holds now.

    Attributes:
        kv_tokens: tokens of running requests in the cache.
        kv_capacity_tokens: tokens that the cache has room for.
        prefill_tokens: prompt tokens that were computed; those that were reused are not.
        picture_queries: pictures that a request needed seen.
        picture_hits: those whose features were there already.
        picture_bytes: what the kept features take.
        prefix_queries: prompt tokens that were looked up among kept conversations.
        prefix_hits: those that were found, and not computed again.
    """

    kv_tokens: int = 0
    kv_capacity_tokens: int = 0
    prefill_tokens: int = 0
    picture_queries: int = 0
    picture_hits: int = 0
    picture_bytes: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0

    def __add__(self, other: "Work") -> "Work":
        """Return the work of both."""
        return Work(
            **{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)}
        )

    @property
    def kv_usage(self) -> float:
        """Return the part of the cache that running requests take, from 0 to 1."""
        return self.kv_tokens / self.kv_capacity_tokens if self.kv_capacity_tokens else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counters of a running engine.

    Attributes:
        steps: engine steps since it started.
        running: requests that hold a slot.
        waiting: requests in the queue.
        last_step_age_s: the time since a step last ended while there is work, 0 while idle: it
            grows only when the engine is stuck.
        prompt_tokens: of requests that were answered, reused ones included.
        generated_tokens: tokens of answers.
        work: what the engine itself counts.
        first_token_s: from a request's arrival at the engine to its first token.
        token_gap_s: from a token to the next of the same request.
        step_tokens: prompt and answer tokens computed in a step.
    """

    steps: int = 0
    running: int = 0
    waiting: int = 0
    last_step_age_s: float = 0.0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    work: Work = Work()
    first_token_s: Histogram = field(default_factory=lambda: Histogram(WAIT_S))
    token_gap_s: Histogram = field(default_factory=lambda: Histogram(GAP_S))
    step_tokens: Histogram = field(default_factory=lambda: Histogram(STEP_TOKENS))


def together(several: Sequence[Stats]) -> Stats:
    """Return the counters of several engines as those of one.

    >>> together([Stats(steps=2, running=1), Stats(steps=3)]).steps
    5
    """
    return reduce(_both, several, Stats())


def _both(one: Stats, other: Stats) -> Stats:
    sums = {
        each.name: getattr(one, each.name) + getattr(other, each.name) for each in fields(Stats)
    }
    return Stats(**{**sums, "last_step_age_s": max(one.last_step_age_s, other.last_step_age_s)})
