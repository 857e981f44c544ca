"""Choosing tokens: greedy for all rows at once, sampling with each request's own generator.

What a request asks for beside that changes its own row alone, before the choice: biases, penalties,
an end that may not come yet, a grammar. Odds that are told are the model's, before all of it.

Source: transformers generation/logits_process.py, vllm v1/sample/sampler.py (order: bias and ends,
penalties, temperature, min_p, top_k, top_p; what each of them is).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from llava_pack.engine.batching.grammars import Allowed, GrammarMatcher
from llava_pack.engine.batching.token import ChosenToken
from llava_pack.engine.sampling import GrammarError, Sampling
from llava_pack.format.errors import PackError, UsageError

_NEVER = float("-inf")
_GREEDY = 1e-5
"""Temperatures below it take the likeliest token: dividing by less would leave nothing to draw."""


class TokenChooser:
    """Chooses one request's tokens; a seed gives the same tokens in any mix of requests.

    Args:
        sampling: what was asked.
        prompt: ids of the prompt; others than the vocabulary's are overlooked.
        ends: ids that end the answer.
        words: size of the vocabulary.
        held: what holds the answer to a grammar.
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        prompt: Sequence[int] = (),
        ends: Sequence[int] = (),
        words: int = 0,
        held: GrammarMatcher | None = None,
    ) -> None:
        self.sampling = sampling
        self.held = held
        self._taken = 0
        self._ends = list(ends)
        self._generator = _generator(sampling)
        self._biased = torch.tensor([i for i, _ in sampling.logit_bias], dtype=torch.long)
        self._biases = torch.tensor([bias for _, bias in sampling.logit_bias])
        self._seen = _flags(words, prompt) if sampling.repetition_penalty != 1 else None
        penalties = sampling.frequency_penalty or sampling.presence_penalty
        self._counts = torch.zeros(words) if penalties else None

    @property
    def plain(self) -> bool:
        """Whether the likeliest token that is allowed is the one to take."""
        changed = self._seen is not None or self._counts is not None or self.sampling.logit_bias
        return self._generator is None and not changed and not self._goes_on

    @property
    def _goes_on(self) -> bool:
        """Whether the answer may not end yet."""
        return self._taken < self.sampling.min_tokens

    def choose(self, logits: torch.Tensor) -> int:
        """Return a token for logits (vocabulary,) in float32 on the CPU, which are changed."""
        self.change(logits)
        if self._generator is None:
            return int(logits.argmax())
        logits /= self.sampling.temperature
        odds = torch.softmax(kept(logits, self.sampling), dim=-1)
        return int(torch.multinomial(odds, 1, generator=self._generator))

    def take(self, token_id: int) -> None:
        """Take note of a token that was chosen.

        Raises:
            GrammarError: what holds the answer gave it up.
        """
        self._taken += 1
        if self._seen is not None:
            self._seen[token_id] = True
        if self._counts is not None:
            self._counts[token_id] += 1
        if self.held is not None:
            self.held.take(token_id)

    def change(self, logits: torch.Tensor) -> None:
        """Put in what changes the odds of single tokens; they are changed in place."""
        if len(self._biased):
            logits.index_add_(0, self._biased, self._biases)
        if self._goes_on and not bool(torch.isneginf(_without(logits, self._ends)).all()):
            logits[self._ends] = _NEVER
        if self._seen is not None:
            by = self.sampling.repetition_penalty
            logits[self._seen] = _divided(logits[self._seen], by)
        if self._counts is not None:
            logits -= self.sampling.frequency_penalty * self._counts
            logits -= self.sampling.presence_penalty * (self._counts > 0)


def choose(logits: torch.Tensor, choosers: Sequence[TokenChooser]) -> list[ChosenToken]:
    """Return the next token of each row; logits (rows or more, vocabulary) are read once."""
    masks = [_mask(one.held) for one in choosers]  # while a GPU still computes the logits
    scores = logits[: len(choosers)]
    if any(isinstance(mask, np.ndarray) for mask in masks):
        scores = scores.masked_fill(_hidden(masks, scores), _NEVER)
    chosen: list[int | PackError] = [int(token) for token in scores.argmax(dim=-1).tolist()]
    changed = [row for row, one in enumerate(choosers) if not one.plain]
    if changed:
        host = scores[changed].float().cpu()
        for row, values in zip(changed, host, strict=True):
            chosen[row] = _drawn(choosers[row], values)
    return [
        _taken(mask if isinstance(mask, PackError) else token, one, row)
        for token, one, row, mask in zip(chosen, choosers, logits, masks, strict=False)
    ]


def _drawn(one: TokenChooser, logits: torch.Tensor) -> int | PackError:
    """Return one row's token; where there is none to draw, its request fails alone."""
    try:
        return one.choose(logits)
    except RuntimeError as error:
        return UsageError(f"these settings leave no token to choose: {error}")


def _taken(token: int | PackError, one: TokenChooser, logits: torch.Tensor) -> ChosenToken:
    if isinstance(token, PackError):
        return ChosenToken(0, refused=token)
    asked = one.sampling.logprobs
    chosen = ChosenToken(token) if asked is None else _with_odds(token, logits, asked)
    try:
        one.take(token)
    except GrammarError as error:
        return replace(chosen, refused=error)
    return replace(chosen, last=True) if one.held is not None and one.held.ended else chosen


def _mask(held: GrammarMatcher | None) -> Allowed | GrammarError | None:
    try:
        return held.allowed() if held is not None else None
    except GrammarError as error:
        return error


def _hidden(masks: Sequence[Allowed | GrammarError | None], scores: torch.Tensor) -> torch.Tensor:
    """Return what is not allowed, as (rows, vocabulary)."""
    hidden = np.zeros(scores.shape, dtype=np.bool_)
    for row, mask in enumerate(masks):
        if isinstance(mask, np.ndarray):
            np.logical_not(mask[: scores.shape[1]], out=hidden[row, : len(mask)])
            hidden[row, len(mask) :] = True
    return torch.from_numpy(hidden).to(scores.device, non_blocking=True)


def _with_odds(token: int, logits: torch.Tensor, count: int) -> ChosenToken:
    """Return a token with the odds that the model gave it."""
    logprobs = logits.float().log_softmax(dim=-1)
    values, ids = logprobs.topk(min(count, len(logprobs)))
    return ChosenToken(
        token, float(logprobs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True))
    )


def _generator(sampling: Sampling) -> torch.Generator | None:
    if sampling.temperature < _GREEDY:
        return None
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    return generator


def _flags(words: int, ids: Sequence[int]) -> torch.Tensor:
    flags = torch.zeros(words, dtype=torch.bool)
    flags[[i for i in ids if 0 <= i < words]] = True
    return flags


def _without(logits: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    kept = torch.ones_like(logits, dtype=torch.bool)
    kept[list(ids)] = False
    return logits[kept]


def _divided(logits: torch.Tensor, by: float) -> torch.Tensor:
    return torch.where(logits > 0, logits / by, logits * by)


def kept(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return the logits with minus infinity where a token is not to be drawn."""
    if sampling.min_p:
        odds = logits.softmax(dim=-1)
        logits = logits.masked_fill(odds < sampling.min_p * odds.max(), _NEVER)
    if 0 < sampling.top_k < len(logits):
        least = logits.topk(sampling.top_k).values[-1]
        logits = logits.masked_fill(logits < least, _NEVER)
    return _nucleus(logits, sampling.top_p) if sampling.top_p < 1 else logits


def _nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    ordered, indices = torch.sort(logits, descending=False)
    below = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    below[-1] = False
    return logits.masked_fill(torch.zeros_like(below).scatter(0, indices, below), _NEVER)
