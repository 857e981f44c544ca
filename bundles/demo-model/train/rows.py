"""Batches for the language model: one picture per row, several questions about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from conversations import BARE_OPENING, NO_PICTURE, OPENING_WEIGHTS, SMALL_TALK
from llama import PICTURE
from pictures import TOKENS
from scenes import Scene, questions
from vocabulary import BEGIN, END, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

IGNORED = -100
QUESTIONS = 6


@dataclass
class Row:
    """One sequence under construction.

    Part 0 (opening and picture) is read by every part; other parts read only themselves.
    """

    vocabulary: Vocabulary
    ids: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)

    def extend(self, ids: tuple[int, ...], part: int, start: int | None = None) -> None:
        """Append ids that are only read; `start` is the position of the first."""
        first = (self.places[-1] + 1 if self.places else 0) if start is None else start
        self.ids.extend(ids)
        self.places.extend(range(first, first + len(ids)))
        self.parts.extend([part] * len(ids))
        self.targets.extend([IGNORED] * len(ids))

    def ask(self, text: str, answer: str, part: int, start: int | None = None) -> None:
        """Append the text up to `ASSISTANT:` and the answer, which is learned."""
        self.extend(self.vocabulary.ids(text), part, start)
        self.learn(answer, part)

    def learn(self, answer: str, part: int) -> None:
        """Append an answer and its end; the token before each is trained to give it."""
        learned = (*self.vocabulary.ids(answer), END)
        before = len(self.targets) - 1
        self.extend(learned, part)
        self.targets[before : before + len(learned)] = learned


@dataclass(frozen=True)
class Batch:
    """Padded rows as the model takes them."""

    ids: torch.Tensor
    places: torch.Tensor
    seen: torch.Tensor
    targets: torch.Tensor


def opened(vocabulary: Vocabulary, opening: str, *, picture: bool) -> Row:
    """Return a row that holds the beginning of a prompt and the places of its picture."""
    row = Row(vocabulary)
    if picture:
        row.extend((BEGIN, *vocabulary.ids(opening), *[PICTURE] * TOKENS), 0)
    else:
        row.extend((BEGIN,), 0)
    return row


def training_row(vocabulary: Vocabulary, scene: Scene, rng: Random) -> tuple[Row, bool]:
    """Return a row about a scene, and whether it shows the picture at all."""
    opening = rng.choices(list(OPENING_WEIGHTS), weights=list(OPENING_WEIGHTS.values()))[0]
    form = rng.random()
    if form < 0.03:
        return _without_picture(vocabulary, opening, scene, rng), False
    row = opened(vocabulary, opening, picture=True)
    turns = _turns(scene, rng)
    if form < 0.18:
        _converse(row, turns, "\n", rng)
    else:
        start = len(row.ids)
        for part, (text, answer) in enumerate(turns, start=1):
            row.ask(f"\n{text} ASSISTANT:", answer, part, start)
    return row, True


def question_row(vocabulary: Vocabulary, opening: str, question: str, answer: str) -> Row:
    """Return a row with one question, as a user's first prompt has it."""
    row = opened(vocabulary, opening, picture=True)
    row.ask(f"\n{question} ASSISTANT:", answer, 0)
    return row


def padded(rows: list[Row]) -> Batch:
    """Return the rows as tensors, filled up on the right."""
    length = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    places, parts = ids.clone(), torch.full_like(ids, -1)
    targets = torch.full_like(ids, IGNORED)
    for index, row in enumerate(rows):
        used = slice(0, len(row.ids))
        ids[index, used] = torch.tensor(row.ids)
        places[index, used] = torch.tensor(row.places)
        parts[index, used] = torch.tensor(row.parts)
        targets[index, used] = torch.tensor(row.targets)
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    shared = (parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None])
    return Batch(ids, places, shared & earlier, targets)


def _turns(scene: Scene, rng: Random) -> list[tuple[str, str]]:
    first = questions(scene, rng)
    kept = [asked for asked in first if asked[2] != "background" or rng.random() < 0.4]
    kept += [asked for asked in questions(scene, rng) if asked[2] in {"exists", "count"}]
    rng.shuffle(kept)
    kept.sort(key=lambda asked: asked[2] != "describe")
    asked = [(text, answer) for text, answer, _ in kept[:QUESTIONS]]
    rng.shuffle(asked)
    if rng.random() < 0.12:
        asked[-1] = _small_talk(rng)
    return asked


def _small_talk(rng: Random) -> tuple[str, str]:
    asked, answer = rng.choices(SMALL_TALK, weights=(1, 1, 1, 1, 3))[0]
    return rng.choice(asked), answer


def _without_picture(vocabulary: Vocabulary, opening: str, scene: Scene, rng: Random) -> Row:
    row = opened(vocabulary, opening, picture=False)
    turns = [(text, NO_PICTURE) for text, _ in _turns(scene, rng)[:2]]
    turns += [_small_talk(rng), _small_talk(rng)]
    rng.shuffle(turns)
    _converse(row, turns, opening, rng)
    return row


def _converse(row: Row, turns: list[tuple[str, str]], opening: str, rng: Random) -> None:
    """Append the turns one after another; both ways a tokenizer may go on after `</s>` occur."""
    legacy = rng.random() < 0.5
    for text, before in zip(turns, _openings(opening), strict=False):
        question, answer = text
        asked = f"{before}{question} ASSISTANT:"
        after_end = row.ids[-1] == END
        vocabulary = row.vocabulary
        ids = vocabulary.bare_ids(asked) if after_end and not legacy else vocabulary.ids(asked)
        row.extend(ids, 0)
        row.learn(answer, 0)


def _openings(first: str) -> Iterator[str]:
    yield first
    while True:
        yield BARE_OPENING
