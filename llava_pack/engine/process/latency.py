"""How long people wait for tokens, measured from outside an engine: from arrivals and events."""

import time
from collections.abc import Sequence
from dataclasses import replace

from llava_pack.engine.port import Delta, Engine, Event, Failed, Finished
from llava_pack.engine.stats import Stats


class Meter:
    """Keeps the counters of one engine up to date; the clock is given with every call."""

    def __init__(self) -> None:
        self.stats = Stats()
        self._arrived_s: dict[str, float] = {}
        self._last_token_s: dict[str, float] = {}

    def arrived(self, request_id: str, now_s: float) -> None:
        """Take note of a request."""
        self._arrived_s[request_id] = now_s

    def queued(self, engine: Engine, arrived: int) -> None:
        """Count requests that were just handed over, before the step that takes them."""
        self.stats = replace(self.stats, running=engine.running, waiting=engine.waiting + arrived)

    def stepped(self, engine: Engine, events: Sequence[Event], now_s: float) -> None:
        """Count a step and what came of it."""
        before = self.stats
        work = engine.work
        made = 0
        for event in events:
            if isinstance(event, Delta):
                made += len(event.token_ids)
                self._token(event.request_id, now_s)
            else:
                self._ended(event)
        computed = work.prefill_tokens - before.work.prefill_tokens + made
        self.stats = replace(
            self.stats,
            steps=before.steps + 1,
            running=engine.running,
            waiting=engine.waiting,
            generated_tokens=before.generated_tokens + made,
            work=work,
            step_tokens=before.step_tokens.with_value(computed) if computed else before.step_tokens,
        )

    def _token(self, request_id: str, now_s: float) -> None:
        last_s = self._last_token_s.get(request_id)
        self._last_token_s[request_id] = now_s
        if last_s is not None:
            gaps = self.stats.token_gap_s.with_value(now_s - last_s)
            self.stats = replace(self.stats, token_gap_s=gaps)
            return
        waited_s = now_s - self._arrived_s.get(request_id, now_s)
        waits = self.stats.first_token_s.with_value(waited_s)
        self.stats = replace(self.stats, first_token_s=waits)

    def _ended(self, event: Finished | Failed) -> None:
        self._arrived_s.pop(event.request_id, None)
        self._last_token_s.pop(event.request_id, None)
        if isinstance(event, Finished):
            count = self.stats.prompt_tokens + event.usage.prompt_tokens
            self.stats = replace(self.stats, prompt_tokens=count)


def seen_from_outside(stats: Stats, *, queued: int, progressed_s: float) -> Stats:
    """Return counters as they are just now, with requests that the engine was not told of yet.

    Args:
        stats: as they were after the last step.
        queued: requests handed over since.
        progressed_s: when a step last ended, or work began, on the monotonic clock.
    """
    busy = bool(stats.running or stats.waiting or queued)
    age_s = time.monotonic() - progressed_s if busy else 0.0
    return replace(stats, waiting=stats.waiting + queued, last_step_age_s=age_s)
