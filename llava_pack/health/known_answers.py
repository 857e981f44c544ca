"""Known answers: the questions that a model is asked to prove that it sees, and their grading."""

import base64
import binascii
import unicodedata
from dataclasses import dataclass

from llava_pack.format.errors import IntegrityError
from llava_pack.format.manifest import KnownAnswer

MAX_TOKENS = 64


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
    said = _folded(text)
    missing = tuple(word for word in known.contains if _folded(word) not in said)
    return Grade(name=known.name, ok=not missing, text=text, missing=missing)


def picture_bytes(known: KnownAnswer) -> bytes:
    """Return the picture's file.

    Raises:
        IntegrityError: the manifest's text for it is not base64.
    """
    try:
        return base64.b64decode(known.picture_png, validate=True)
    except (binascii.Error, ValueError) as error:
        raise IntegrityError("its picture is not base64", subject=known.name) from error


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
