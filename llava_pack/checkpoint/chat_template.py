"""The chat template that a folder carries: found, tried out, and rendered.

What people wrote never passes through the template: marks stand for their texts and pictures
while it runs, so that nothing that they type becomes a token of it, and what the template itself
wrote is known. That is only right for a template which copies texts as they are; one that changes
them, other than at their ends, is refused before it is used.

Source: transformers processing_utils.py, tokenization_utils_base.py (where the template is looked
for, what it is given).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.config import read_config, read_small
from llava_pack.checkpoint.jinja_sandbox import rendered
from llava_pack.checkpoint.message_body import body, is_interleaved
from llava_pack.format.errors import CheckpointError, UsageError

Piece = Any
"""A `Markup`, a text of somebody's, or a picture, of whatever class the caller has for them."""
Ends = Callable[[str], str]

_OPEN, _CLOSE = "\ue000", "\ue001"
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
_IMAGE = "<image>"
_HINT = "choose a conversation template with --conv-mode"


def _as_it_is(text: str) -> str:
    return text


_ENDS: tuple[Ends, ...] = (_as_it_is, str.strip, str.lstrip, str.rstrip)


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

    def render(self, turns: Sequence[TemplateTurn]) -> list[Piece]:
        """Return the prompt that asks for the next turn.

        Raises:
            UsageError: the template refuses the conversation, or leaves out a part of it.
        """
        try:
            return self._rendered(turns)
        except CheckpointError as error:
            raise UsageError(
                f"the model's chat template does not take this conversation: {error.message}",
                hint="leave out the system message, or choose another template with --conv-mode",
            ) from error

    def _rendered(self, turns: Sequence[TemplateTurn]) -> list[Piece]:
        held: list[Any] = []
        messages = [self._message(turn, held) for turn in turns]
        written = rendered(self.text, self._values(messages))
        pictures = iter([one for one in held if not isinstance(one, str)])
        pieces: list[Piece] = []
        unseen = {index for index, one in enumerate(held) if isinstance(one, str)}
        for index, piece in enumerate(_MARK.split(written)):
            if index % 2 == 0:
                pieces += _with_pictures(piece, self.image, pictures)
                continue
            one = held[int(piece)]
            unseen -= {int(piece)}
            if not isinstance(one, str) and next(pictures, None) is not one:
                raise CheckpointError("it changes the order of pictures")
            pieces.append(one)
        if unseen or next(pictures, None) is not None:
            raise CheckpointError(f"it leaves out a {'text' if unseen else 'picture'}")
        return pieces

    def _values(self, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        given = {"messages": messages, "add_generation_prompt": True}
        return {**self.names, **given, "tools": None, "documents": None}

    def _message(self, turn: TemplateTurn, held: list[Any]) -> dict[str, Any]:
        """Return a message as the template takes it; marks in it are places in `held`."""
        ends = self.ends.get(turn.role, _as_it_is)
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


def find_chat_template(folder: Path) -> str | None:
    """Return the text of a folder's chat template, None where it has none.

    Raises:
        CheckpointError: a file is malformed or far too large.
    """
    plain = folder / "chat_template.jinja"
    if plain.is_file():
        try:
            return read_small(plain).decode()
        except UnicodeDecodeError as error:
            raise CheckpointError("not UTF-8", subject=plain.name) from error
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        text = _default(read_config(folder / name).get("chat_template"))
        if text is not None:
            return text
    return None


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """Return a folder's chat template, tried out; None where it has none.

    Raises:
        CheckpointError: it cannot be used; the hint says what to do instead.
    """
    text = find_chat_template(folder)
    if text is None:
        return None
    settings = read_config(folder / "tokenizer_config.json")
    names = {name: token_text(settings.get(name)) for name in _NAMES}
    image = read_config(folder / "processor_config.json").get("image_token")
    return tried(
        text,
        {name: token for name, token in names.items() if token},
        image=image if isinstance(image, str) and image else _IMAGE,
    )


def tried(text: str, names: Mapping[str, str], *, image: str = _IMAGE) -> ChatTemplate:
    """Return a template with how it takes conversations.

    Raises:
        CheckpointError: there is no way in which it copies their texts and pictures.
    """
    reasons: list[str] = []
    for lists in (True, False):
        template = ChatTemplate(text=text, names=names, image=image, lists=lists)
        try:
            return _learned(template)
        except CheckpointError as error:
            reasons.append(error.message)
    raise CheckpointError(
        f"it cannot be used: {'; '.join(dict.fromkeys(reasons))}",
        subject="chat_template",
        hint=_HINT,
    )


def token_text(entry: Any) -> str:
    """Return the text of a special token, written as text or as an object."""
    return str(entry.get("content", "")) if isinstance(entry, Mapping) else str(entry or "")


_SEEN = object()
_TRIAL: tuple[TemplateTurn, ...] = (
    TemplateTurn("user", (_SEEN, " \t\nAsk {{ 1 + 1 }} <b>\"&'\\n</b> a\u00fc\n ")),
    TemplateTurn("assistant", ("\n Told {% raw %} </think> |x| \u00e9 \n",)),
    TemplateTurn("user", (" Next?\n\n",)),
)
_SYSTEM: TemplateTurn = TemplateTurn("system", ("\n Be brief. \n",))


def _learned(template: ChatTemplate) -> ChatTemplate:
    """Return a template with what it does to the ends of texts, by a conversation or two.

    Raises:
        CheckpointError: it does more to them, or leaves something out.
    """
    if _OPEN in template.text:
        raise CheckpointError("it has characters for private use")
    ways = ({"user": user, "assistant": told} for user, told in product(_ENDS, _ENDS))
    found = _fitting(template, _TRIAL, ways)
    pieces = found._rendered(_TRIAL)  # noqa: SLF001 - of this module
    answer = found.ends["assistant"](_TRIAL[1].parts[0])
    after = pieces[pieces.index(answer) + 1]
    found = replace(found, after=after.text if isinstance(after, Markup) else "")
    try:
        return _fitting(found, (_SYSTEM, *_TRIAL), ({**found.ends, "system": one} for one in _ENDS))
    except CheckpointError:
        return found  # it takes no system message, which is told when there is one


def _fitting(
    template: ChatTemplate, turns: Sequence[TemplateTurn], ways: Iterable[Mapping[str, Ends]]
) -> ChatTemplate:
    """Return a template with the first of some ways in which it gives what it really writes."""
    real = rendered(template.text, template._values([_plain(one, template) for one in turns]))  # noqa: SLF001
    for ends in ways:
        candidate = replace(template, ends=ends)
        pieces = candidate._rendered(turns)  # noqa: SLF001
        if "".join(_text(piece, template.image) for piece in pieces) == real:
            return candidate
    raise CheckpointError("it changes the texts of a conversation")


def _plain(turn: TemplateTurn, template: ChatTemplate) -> dict[str, Any]:
    """Return a message as transformers would give it, texts and all."""
    content: Any = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
        for part in turn.parts
    ]
    if not template.lists:
        content = "".join(_text(one, template.image) for one in body(turn.parts))
    return {"role": turn.role, "content": content}


def _text(piece: Any, image: str) -> str:
    if isinstance(piece, Markup):
        return piece.text
    return piece if isinstance(piece, str) else image


def _marked(part: Any, held: list[Any]) -> str:
    """Return what stands for a part while the template runs; an empty text is itself."""
    if part == "":
        return ""
    held.append(part)
    return f"{_OPEN}{len(held) - 1}{_CLOSE}"


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


def _default(value: Any) -> str | None:
    """Return a template of `chat_template`, which may be a list of named ones."""
    if isinstance(value, str):
        return value
    for entry in value if isinstance(value, list) else ():
        if isinstance(entry, dict) and entry.get("name") == "default":
            return _default(entry.get("template"))
    return None
