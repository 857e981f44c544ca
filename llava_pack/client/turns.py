"""A conversation as it is asked, and its answer as it grows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from llava_pack.engine.port import Picture
from llava_pack.format.errors import UsageError

PLACEHOLDER = "<image>"
"""What a person types where a picture is to stand."""
Shown = TypeVar("Shown")


@dataclass(frozen=True, slots=True)
class Attachment:
    """A picture as it was read from its file, and decoded where that is done here."""

    data: bytes = field(repr=False)
    picture: Picture | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation."""

    role: str
    text: str
    attachments: tuple[Attachment, ...] = ()

    @property
    def parts(self) -> tuple[str | Attachment, ...]:
        """The text and the pictures, each where it stands.

        Raises:
            UsageError: the text has places for another number of pictures.
        """
        return placed(self.text, self.attachments) if self.role == "user" else (self.text,)


def placed(text: str, pictures: Sequence[Shown]) -> tuple[str | Shown, ...]:
    r"""Return a question and its pictures: each at its `<image>`; without one, all before the text.

    Pictures before any text stand on lines of their own whether or not the text says so.

    Raises:
        UsageError: the text has places for another number of pictures.

    >>> placed("Is <image> red?", [1]), placed("<image>\nWhat is it?", [1]), placed("And?", [])
    (('Is ', 1, ' red?'), (1, 'What is it?'), ('And?',))
    """
    first, *others = text.split(PLACEHOLDER)
    if not others:
        return (*pictures, text)
    if len(others) != len(pictures):
        raise UsageError(
            f"the question has {len(others)} {PLACEHOLDER}, expected one for each picture: "
            f"{len(pictures)}",
            hint=f"without any {PLACEHOLDER}, the pictures come before the question",
        )
    parts: list[str | Shown] = [first] if first.strip() else []
    for picture, piece in zip(pictures, others, strict=True):
        begun = any(isinstance(part, str) for part in parts)
        following = piece if begun else piece.removeprefix("\n")
        parts += [picture, following] if following.strip() or (begun and piece) else [picture]
    return tuple(parts)


@dataclass(slots=True)
class ChatAnswer:
    """What was said, filled in while it is said; a server tells `token_ids` with its last piece."""

    text: str = ""
    token_ids: list[int] | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
