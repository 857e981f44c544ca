"""A token that a model chose, with the odds that it had where somebody asked for them."""

from dataclasses import dataclass

from llava_pack.format.errors import PackError


@dataclass(frozen=True, slots=True)
class ChosenToken:
    """A token, with what is known of how it was chosen.

    Attributes:
        token_id: the token.
        logprob: None where nobody asked.
        likeliest: tokens with their log-probabilities, best first.
        last: nothing may follow it.
        refused: why none could be chosen; then `token_id` says nothing.
    """

    token_id: int
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()
    last: bool = False
    refused: PackError | None = None
