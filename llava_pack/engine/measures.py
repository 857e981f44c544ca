"""What is told of an answer beside its text: tokens counted, seconds, odds, its way through."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

UNTOLD = -1
"""In place of a token's id, where an engine does not tell it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted; a picture counts as the tokens that it takes in the prompt.

    `cached_tokens` are those of the prompt that were not computed again.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from submission: until the first step on it, to the first token, to the end."""

    queued_s: float
    first_token_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Likely:
    """A token with its bytes and its log-probability, before temperature and top_p.

    A token that ends an answer, or is special otherwise, has no bytes.
    """

    token_id: int
    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Odds:
    """The odds that a token was chosen from: its own, and the likeliest ones, best first."""

    chosen: Likely
    likeliest: tuple[Likely, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One question's way through a model; two engines that serve one model leave one trace.

    Attributes:
        prompt: SHA-256 of the prompt's token ids, which template and tokenizer decide.
        words: SHA-256 of the token ids of the question's own text, which the tokenizer decides.
        pixels: SHA-256 of what the tower is given, float32; empty without a picture.
        tower: fingerprint of the tower's features that are used; empty without a picture.
        projector: fingerprint of the projector's output; empty without a picture.
    """

    prompt: str
    words: str
    pixels: str = ""
    tower: tuple[float, ...] = ()
    projector: tuple[float, ...] = ()


def token_digest(ids: Sequence[int]) -> str:
    """Return the SHA-256 of token ids, as hex."""
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()
