"""Choosing tokens: greedy for all rows at once, sampling with each request's own generator.

Source: transformers generation/logits_process.py (order: temperature, then top_p).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llava_pack.engine.batching.token import ChosenToken
from llava_pack.engine.sampling import Sampling


@dataclass(slots=True)
class TokenChooser:
    """Chooses one request's tokens; a seed gives the same tokens in any mix of requests."""

    temperature: float
    top_p: float
    generator: torch.Generator | None
    logprobs: int | None = None

    def sample(self, logits: torch.Tensor) -> int:
        """Return a token drawn from logits (vocabulary,) in float32 on the CPU."""
        scaled = logits / self.temperature
        if self.top_p < 1:
            scaled = _nucleus(scaled, self.top_p)
        odds = torch.softmax(scaled, dim=-1)
        return int(torch.multinomial(odds, 1, generator=self.generator))


def chooser(sampling: Sampling) -> TokenChooser:
    """Return what chooses a request's tokens."""
    if sampling.temperature == 0:
        return TokenChooser(0.0, 1.0, None, sampling.logprobs)
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    return TokenChooser(sampling.temperature, sampling.top_p, generator, sampling.logprobs)


def choose(logits: torch.Tensor, choosers: Sequence[TokenChooser]) -> list[ChosenToken]:
    """Return the next token of each row; logits (rows or more, vocabulary) are read once."""
    chosen = [int(token) for token in logits.argmax(dim=-1).tolist()[: len(choosers)]]
    sampled = [row for row, one in enumerate(choosers) if one.generator is not None]
    if sampled:
        host = logits[sampled].float().cpu()
        for row, values in zip(sampled, host, strict=True):
            chosen[row] = choosers[row].sample(values)
    return [
        ChosenToken(token) if one.logprobs is None else _with_odds(token, logits[row], one.logprobs)
        for row, (token, one) in enumerate(zip(chosen, choosers, strict=True))
    ]


def _with_odds(token: int, logits: torch.Tensor, count: int) -> ChosenToken:
    """Return a token with the odds that the model gave it, before temperature and top_p."""
    logprobs = logits.float().log_softmax(dim=-1)
    values, ids = logprobs.topk(min(count, len(logprobs)))
    return ChosenToken(
        token, float(logprobs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True))
    )


def _nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    ordered, indices = torch.sort(logits, descending=False)
    below = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    below[-1] = False
    return logits.masked_fill(torch.zeros_like(below).scatter(0, indices, below), float("-inf"))
