"""A token that a model chose, with the odds that it had where somebody asked for them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChosenToken:
    """A token; its log-probability, and the likeliest tokens with theirs, best first.

    `logprob` is None where nobody asked.
    """

    token_id: int
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()
