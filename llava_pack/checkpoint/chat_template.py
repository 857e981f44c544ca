"""The chat template that a checkpoint carries, rendered without what people wrote.

What people wrote never passes through the template: marks stand for their texts and pictures
while it runs, so that nothing that they type becomes a token of it, and what the template itself
wrote is known. That is only right for a template which copies texts as they are; one that changes
them, other than at their ends, is refused before it is used: see `chat_template_trial`.

Source: transformers utils/chat_template_utils.py render_jinja_template (what it is given).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llava_pack.checkpoint.jinja_sandbox import rendered
from llava_pack.checkpoint.message_body import body, is_interleaved
from llava_pack.format.errors import CheckpointError, UsageError

Piece = Any
"""A `Markup`, a text of somebody's, or a picture, of whatever class the caller has for them."""
Ends = Callable[[str], str]

MARK, _CLOSE = "\ue000", "\ue001"
_MARK = re.compile(f"{MARK}(\\d+){_CLOSE}")


def as_it_is(text: str) -> str:
    """Return a text whose ends stay."""
    return text


@dataclass(frozen=True, slots=True)
class Markup:
    """What a template itself wrote: only there are special tokens looked for."""

    text: str


@dataclass(frozen=True, slots=True)
class TemplateTurn:
    """One turn: texts and pictures in the order in which they were given."""

    role: str
    parts: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """A chat template that was tried out.

    Attributes:
        text: in Jinja.
        names: what it may call by name, as `bos_token`.
        image: what it writes for a picture.
        lists: a message's content is a list of parts; else it is one text.
        ends: what it does to the ends of a role's texts.
        after: what it writes behind an answer.
    """

    text: str = field(repr=False)
    names: Mapping[str, str]
    image: str
    lists: bool
    ends: Mapping[str, Ends] = field(default_factory=dict, repr=False)
    after: str = ""

    def render(self, turns: Sequence[TemplateTurn], ending: str = "opened") -> list[Piece]:
        """Return a prompt.

        Args:
            turns: the conversation.
            ending: `opened` asks for the next turn, `continued` for the rest of the last one,
                which has one text and no picture; `closed` for whatever comes next.

        Raises:
            UsageError: the template refuses the conversation, or leaves out a part of it.
        """
        try:
            return self.pieces(turns, ending)
        except CheckpointError as error:
            raise UsageError(
                f"the model's chat template does not take this conversation: {error.message}",
                hint="leave out the system message, or choose another template with --conv-mode",
            ) from error

    def pieces(self, turns: Sequence[TemplateTurn], ending: str = "opened") -> list[Piece]:
        """Return the prompt as `render` does.

        Raises:
            CheckpointError: the template fails, or leaves out a part of the conversation.
        """
        held: list[Any] = []
        messages = [self._message(turn, held) for turn in turns]
        written = rendered(self.text, self.values(messages, opened=ending == "opened"))
        pictures = iter([one for one in held if not isinstance(one, str)])
        pieces: list[Piece] = []
        last = 0
        unseen = {index for index, one in enumerate(held) if isinstance(one, str)}
        for index, piece in enumerate(_MARK.split(written)):
            if index % 2 == 0:
                pieces += _with_pictures(piece, self.image, pictures)
                continue
            place = _place(piece, held)
            one = held[place]
            unseen -= {place}
            if not isinstance(one, str) and next(pictures, None) is not one:
                raise CheckpointError("it changes the order of pictures")
            pieces.append(one)
            last = len(pieces) if place == len(held) - 1 else last
        if ending == "continued":
            del pieces[last:]
        if unseen or next(pictures, None) is not None:
            raise CheckpointError(f"it leaves out a {'text' if unseen else 'picture'}")
        return pieces

    def written(self, tokens: Iterable[str]) -> list[str]:
        """Return those of some tokens that the template writes around a question and its answer.

        Raises:
            CheckpointError: the template fails.
        """
        pieces = self.pieces([TemplateTurn("user", ("x",))])
        text = "".join(one.text for one in pieces if isinstance(one, Markup)) + self.after
        return sorted(token for token in tokens if token and token in text)

    def values(
        self, messages: Sequence[Mapping[str, Any]], *, opened: bool = True
    ) -> dict[str, Any]:
        """Return what the template is given for a conversation; `opened` begins the next turn."""
        given = {"messages": messages, "add_generation_prompt": opened}
        return {**self.names, **given, "tools": None, "documents": None}

    def _message(self, turn: TemplateTurn, held: list[Any]) -> dict[str, Any]:
        """Return a message as the template takes it; marks in it are places in `held`."""
        ends = self.ends.get(turn.role, as_it_is)
        if self.lists and not is_interleaved(turn.parts):
            content: Any = [self._part(part, ends, held) for part in turn.parts]
        else:
            text = "".join(_marked(part, held) for part in _trimmed(body(turn.parts), ends))
            content = [{"type": "text", "text": text}] if self.lists else text
        return {"role": turn.role, "content": content}

    def _part(self, part: Any, ends: Ends, held: list[Any]) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": _marked(ends(part), held)}
        held.append(part)
        return {"type": "image"}


def token_text(entry: Any) -> str:
    """Return the text of a special token, written as text or as an object."""
    return str(entry.get("content", "")) if isinstance(entry, Mapping) else str(entry or "")


def written_text(piece: Piece, image: str) -> str:
    """Return a piece of a prompt as text, `image` for a picture."""
    if isinstance(piece, Markup):
        return piece.text
    return piece if isinstance(piece, str) else image


def _place(digits: str, held: Sequence[Any]) -> int:
    """Return the place in `held` that a mark names, which a template can write itself."""
    if len(digits) > len(str(len(held))) or int(digits) >= len(held):
        raise CheckpointError("it writes characters for private use")
    return int(digits)


def _marked(part: Any, held: list[Any]) -> str:
    """Return what stands for a part while the template runs; an empty text is itself."""
    if part == "":
        return ""
    held.append(part)
    return f"{MARK}{len(held) - 1}{_CLOSE}"


def _trimmed(parts: Sequence[Any], ends: Ends) -> list[Any]:
    """Return a body whose ends are treated as those of one text, with neighbouring texts joined."""
    trimmed: list[Any] = []
    for part in parts:
        if isinstance(part, str) and trimmed and isinstance(trimmed[-1], str):
            trimmed[-1] += part
        else:
            trimmed.append(part)
    if isinstance(trimmed[0], str):
        trimmed[0] = ends(f"{trimmed[0]}x").removesuffix("x")
    if isinstance(trimmed[-1], str):
        trimmed[-1] = ends(f"x{trimmed[-1]}").removeprefix("x")
    return trimmed


def _with_pictures(text: str, image: str, pictures: Iterator[Any]) -> list[Piece]:
    """Return what a template wrote, with the next pictures where it wrote them."""
    pieces: list[Piece] = []
    for index, piece in enumerate(text.split(image)):
        if index:
            picture = next(pictures, None)
            if picture is None:
                raise CheckpointError("it writes more pictures than there are")
            pieces.append(picture)
        if piece:
            pieces.append(Markup(piece))
    return pieces
