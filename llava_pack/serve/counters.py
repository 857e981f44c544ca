"""What became of a model's requests, counted as they end: for `/metrics`, and for the page."""

from collections import Counter
from dataclasses import dataclass, field

from llava_pack.engine.port import Finished
from llava_pack.engine.stats import WAIT_S, Histogram

TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
"""Source: vllm v1/metrics/loggers.py, build_1_2_5_buckets."""


@dataclass(kw_only=True)
class Tally:
    """Counters of one model since its gateway began; an engine that ends leaves them alone."""

    ended: Counter[str] = field(default_factory=Counter)
    """Requests by how they ended: stop, length, abort, error."""
    refused: int = 0
    """Requests that found the queue full."""
    restarts: int = 0
    """How often the engine was started again."""
    total_s: Histogram = field(default_factory=lambda: Histogram(WAIT_S))
    queued_s: Histogram = field(default_factory=lambda: Histogram(WAIT_S))
    prompt_tokens: Histogram = field(default_factory=lambda: Histogram(TOKENS))
    answer_tokens: Histogram = field(default_factory=lambda: Histogram(TOKENS))

    def finished(self, event: Finished) -> None:
        """Count a request that came to its end."""
        self.ended["abort" if event.reason == "cancelled" else event.reason] += 1
        self.total_s = self.total_s.with_value(event.timings.total_s)
        self.queued_s = self.queued_s.with_value(event.timings.queued_s)
        self.prompt_tokens = self.prompt_tokens.with_value(event.usage.prompt_tokens)
        self.answer_tokens = self.answer_tokens.with_value(event.usage.completion_tokens)
