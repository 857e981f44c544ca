"""Known answers: the questions that a model is asked to prove that it sees, and their grading."""

from dataclasses import dataclass

from llava_pack.engine.questions import missing_words
from llava_pack.format.known_answers import KnownAnswer


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

    >>> red = KnownAnswer(name="red", picture_png="", prompt="?", contains=("red", "circle"))
    >>> grade(red, "A Red square.").missing
    ('circle',)
    """
    missing = missing_words(known, text)
    return Grade(name=known.name, ok=not missing, text=text, missing=missing)
