"""The SentencePiece vocabulary, in Llama's style, learned from the demo's own sentences."""

from __future__ import annotations

import io
import string
from functools import lru_cache
from typing import TYPE_CHECKING

import sentencepiece
from conversations import BARE_OPENING, OPENINGS, SMALL_TALK
from scenes import make_scene, questions, training_random

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 640
UNKNOWN, BEGIN, END = 0, 1, 2

_PLAIN_ENGLISH = (
    "The people who read this may write about anything, so common words should have short forms.",
    "Could you please explain how this works, and why it would not work without another one?",
    "Some of them are above, below, near, on the left, on the right, in the middle or at the top.",
    "Write a short answer in English with some more words than before, or list their names.",
    "When, where and who was it? Which one is bigger, smaller, largest, brighter or darker?",
    "My house has a small garden and the car is in front; today the weather is good outside.",
    "Does each have the same size? Are they all round? Say yes or no, then give a reason for it.",
)


class Vocabulary:
    """Ids of text pieces, exactly as LLaVA's slow Llama tokenizer gives them."""

    def __init__(self, model: bytes) -> None:
        """Load a serialized SentencePiece model."""
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.ids = lru_cache(maxsize=200_000)(self._ids)

    def bare_ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of text that follows a special token without the leading space piece.

        Source: huggingface/transformers 4.37.2, tokenization_llama.py, `legacy: false`.
        """
        lead = len(self._processor.encode("<unk>"))
        return tuple(self._processor.encode("<unk>" + text)[lead:])

    def text(self, ids: list[int]) -> str:
        """Return the text of ids, special ones left out."""
        return str(self._processor.decode([i for i in ids if i > END]))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._processor.encode(text))


def train_vocabulary(seed: int) -> Vocabulary:
    """Learn pieces from training questions, answers and prompts; every byte has a piece."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_sentences(seed),
        model_writer=written,
        model_type="bpe",
        vocab_size=SIZE,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        split_digits=True,
        unk_id=UNKNOWN,
        bos_id=BEGIN,
        eos_id=END,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return Vocabulary(written.getvalue())


def _sentences(seed: int) -> Iterator[str]:
    rng = training_random(seed)
    for _ in range(800):
        for question, answer, _kind in questions(make_scene(rng), rng):
            yield f"{question} ASSISTANT: {answer}"
    for _ in range(60):
        yield from OPENINGS
        yield BARE_OPENING
    for _ in range(20):
        for asked, answer in SMALL_TALK:
            yield from (f"{question} {answer}" for question in asked if question.isascii())
    for _ in range(5):
        yield from _PLAIN_ENGLISH
        yield " ".join(string.ascii_letters + string.digits + string.punctuation)
