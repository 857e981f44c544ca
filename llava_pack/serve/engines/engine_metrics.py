"""What engines count of themselves, from Prometheus text to `Stats`. Pure.

Only what a `MetricNames` names is read. Samples that differ in labels only are summed: an engine
has a set of them for each of its processes.

Source: prometheus.io, "Text-based format" 0.0.4.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import fields

from llava_pack.engine.stats import Histogram, Stats, Work
from llava_pack.profiles.profile import MetricNames

_SAMPLE = re.compile(
    r'^([A-Za-z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})? +(\S+)', re.MULTILINE | re.ASCII
)
_BOUND = re.compile(r'(?:^|,)\s*le="([^"]*)"')
_PARTS = 1_000_000
"""Engines of others tell only which part of their cache is in use: it is counted in millionths."""

Samples = Mapping[str, float]
Buckets = Mapping[str, Mapping[float, float]]


def stats_of(text: str, names: MetricNames, before: Stats) -> Stats:
    """Return an engine's counters; what it does not count stays as it was.

    Args:
        text: as it exposes them.
        names: what they are called.
        before: what was known before.
    """
    wanted = frozenset(value for one in fields(names) if (value := getattr(names, one.name)))
    samples, buckets = _read(text, wanted)

    def number(name: str, otherwise: int) -> int:
        return int(samples[name]) if name in samples else otherwise

    def spread(name: str, otherwise: Histogram) -> Histogram:
        if name not in buckets:
            return otherwise
        return _histogram(buckets[name], samples.get(f"{name}_sum", 0.0), otherwise.bounds)

    used = min(max(samples.get(names.kv_usage, 0.0), 0.0), 1.0)
    return Stats(
        steps=number(names.steps, before.steps),
        running=number(names.running, 0),
        waiting=number(names.waiting, 0),
        prompt_tokens=number(names.prompt_tokens, before.prompt_tokens),
        generated_tokens=number(names.generated_tokens, before.generated_tokens),
        work=Work(
            kv_tokens=round(used * _PARTS),
            kv_capacity_tokens=_PARTS,
            prefix_queries=number(names.prefix_queries, 0),
            prefix_hits=number(names.prefix_hits, 0),
            picture_queries=number(names.picture_queries, 0),
            picture_hits=number(names.picture_hits, 0),
        ),
        first_token_s=spread(names.first_token_s, before.first_token_s),
        token_gap_s=spread(names.token_gap_s, before.token_gap_s),
        step_tokens=spread(names.step_tokens, before.step_tokens),
    )


def _read(text: str, wanted: frozenset[str]) -> tuple[Samples, Buckets]:
    """Return the sums of the samples, and for each histogram its counts up to each bound."""
    samples: dict[str, float] = {}
    buckets: dict[str, dict[float, float]] = {}
    for name, labels, said in _SAMPLE.findall(text):
        stem = name.removesuffix("_bucket").removesuffix("_sum")
        if not (name in wanted or stem in wanted):
            continue
        value = _number(said)
        if stem in wanted and name.endswith("_bucket"):
            if (bound := _BOUND.search(labels)) is not None:
                below = buckets.setdefault(stem, {})
                limit = _number(bound[1], otherwise=math.inf)
                below[limit] = below.get(limit, 0.0) + value
        else:
            samples[name] = samples.get(name, 0.0) + value
    return samples, buckets


def _number(said: str, otherwise: float = 0.0) -> float:
    try:
        value = float(said)
    except ValueError:
        return otherwise
    return value if math.isfinite(value) else otherwise


def _histogram(below: Mapping[float, float], total: float, bounds: tuple[float, ...]) -> Histogram:
    """Return a histogram in our buckets; a bucket of theirs goes to ours that holds its end.

    >>> _histogram({1.0: 2, 5.0: 3, math.inf: 4}, 9.0, (1.0, 10.0)).counts
    (2, 1, 1)
    """
    counts, before = [0] * (len(bounds) + 1), 0.0
    for bound in sorted(below):
        counts[bisect_left(bounds, bound)] += max(0, round(below[bound] - before))
        before = max(before, below[bound])
    return Histogram(bounds, tuple(counts), total)
