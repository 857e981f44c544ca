"""Known answers: the questions that a model is asked to prove that it sees, and their grading."""

import unicodedata
from dataclasses import dataclass

from llava_pack.format.manifest import KnownAnswer


@dataclass(frozen=True, kw_only=True)
class Grade:
    """What became of one known answer."""

    name: str
    ok: bool
    text: str
    """The model's own words."""
    missing: tuple[str, ...]
    """What the answer should have contained and did not."""

    @property
    def why(self) -> str:
        """One line for people: what was expected and what came."""
        if self.ok:
            return f"{self.name}: {self.text.strip()!r:.200}"
        wanted = ", ".join(repr(word) for word in self.missing)
        return f"{self.name}: expected {wanted} in the answer, got {self.text.strip()!r:.200}"


def grade(known: KnownAnswer, text: str) -> Grade:
    """Return how an answer compares: every expected word in it, whatever the case.

    Words with `|` between them are spellings of one: `two|2`.

    >>> red = KnownAnswer(name="red", picture_png="", prompt="?", contains=("red", "circle"))
    >>> grade(red, "A Red square.").missing
    ('circle',)
    """
    said = _folded(text)
    missing = tuple(
        word for word in known.contains if not any(_folded(one) in said for one in word.split("|"))
    )
    return Grade(name=known.name, ok=not missing, text=text, missing=missing)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
