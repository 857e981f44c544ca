"""How an answer is made: how its tokens are chosen, and where it ends."""

from dataclasses import dataclass

from llava_pack.engine import limits
from llava_pack.format.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen and when to end; temperature 0 is greedy.

    `logprobs` None says nothing of odds; a number asks for each token's own log-probability and
    for those of that many likeliest tokens.

    Raises:
        UsageError: a number is out of its range; the message names it and the range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= limits.MAX_TEMPERATURE:  # which NaN is not either
            raise _outside("temperature", "from 0 to 100", self.temperature)
        if not 0 < self.top_p <= 1:
            raise _outside("top_p", "above 0 and at most 1", self.top_p)
        if self.seed is not None and not 0 <= self.seed <= limits.MAX_SEED:
            raise _outside("seed", "from 0 to 2^63-1", self.seed)
        if self.max_tokens < 1:
            raise _outside("max_tokens", "at least 1", self.max_tokens)
        if len(self.stop) > limits.MAX_STOPS:
            raise _outside("stop", f"at most {limits.MAX_STOPS} strings", len(self.stop))
        if not all(0 < len(text) <= limits.MAX_STOP_CHARS for text in self.stop):
            raise UsageError(
                f"each string of stop must have 1 to {limits.MAX_STOP_CHARS} characters"
            )
        if self.logprobs is not None and not 0 <= self.logprobs <= limits.MAX_TOP_LOGPROBS:
            raise _outside("logprobs", f"from 0 to {limits.MAX_TOP_LOGPROBS}", self.logprobs)


def _outside(name: str, expected: str, got: object) -> UsageError:
    return UsageError(f"{name} must be {expected}, got {got}")
