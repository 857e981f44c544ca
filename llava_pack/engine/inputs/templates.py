"""The one function that renders a conversation by its template.

A rendered prompt is a sequence of texts, special tokens and pictures. Text from people stays
text: a `</s>` or `<image>` that somebody types never becomes the token, because only the
template's own `Special` and the message's own `Picture` parts do.

Source: haotian-liu/LLaVA llava/conversation.py (the styles).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from llava_pack.checkpoint.templates import Template, template
from llava_pack.engine.port import ROLES, Message, Picture
from llava_pack.format.errors import UsageError


@dataclass(frozen=True, slots=True)
class Special:
    """A special token by its text, for example `</s>`."""

    token: str


Item = str | Special | Picture


def render(messages: Sequence[Message], conv_mode: str) -> tuple[Item, ...]:
    """Return the prompt that asks the model for the next turn.

    Pictures come before the text of their message, each on a line of its own, as LLaVA was
    trained; neighbouring messages of one role count as one.

    Raises:
        UsageError: unknown template, no message, an unknown role, a system message that is not
            the first, a picture outside a person's turn, or the last word is not a person's.
    """
    chosen = template(conv_mode)
    system, turns = _turns(messages)
    if system is not None:
        chosen = replace(chosen, system=system)
    styles = {
        "single": _dialogue,
        "two": _dialogue,
        "chatml": _chatml,
        "llama_2": _llama_2,
        "plain": _plain,
        "raw": _raw,
    }
    return _joined(styles[chosen.style](chosen, turns), chosen.specials)


# A template's own words are `_Markup`: only there are special tokens looked for.
@dataclass(frozen=True, slots=True)
class _Markup:
    text: str


_Piece = _Markup | str | Picture
_Turn = tuple[str, tuple[str | Picture, ...]]


def _turns(messages: Sequence[Message]) -> tuple[str | None, list[_Turn]]:
    system: str | None = None
    turns: list[_Turn] = []
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise UsageError(f"unknown role {message.role!r}, expected one of: {', '.join(ROLES)}")
        if message.pictures and message.role != "user":
            raise UsageError(
                f"expected pictures only in a user's message, got one from {message.role}"
            )
        if message.role == "system":
            if index:
                raise UsageError("a system message must come first")
            system = message.text
        elif turns and turns[-1][0] == message.role:
            turns[-1] = (message.role, (*turns[-1][1], *message.parts))
        else:
            turns.append((message.role, message.parts))
    if not turns or turns[-1][0] != "user":
        raise UsageError("the last message must be a user's question")
    if turns[0][0] != "user":
        raise UsageError("the first message after the system's must be a user's")
    return system, turns


def _body(parts: Iterable[str | Picture]) -> list[_Piece]:
    """Return pictures first, each followed by a line end, then the text."""
    parts = tuple(parts)
    body: list[_Piece] = []
    for part in parts:
        if isinstance(part, Picture):
            body += [part, "\n"]
    return [*body, "\n".join(part for part in parts if isinstance(part, str))]


def _dialogue(chosen: Template, turns: Sequence[_Turn]) -> list[_Piece]:
    pieces: list[_Piece] = [chosen.system, _Markup(chosen.sep)]
    for role, parts in turns:
        name, sep = (chosen.user, chosen.sep) if role == "user" else (chosen.assistant, chosen.sep2)
        pieces += [_Markup(f"{name}: "), *_body(parts), _Markup(sep)]
    return [*pieces, _Markup(f"{chosen.assistant}:")]


def _chatml(chosen: Template, turns: Sequence[_Turn]) -> list[_Piece]:
    pieces: list[_Piece] = [_Markup("<|im_start|>system\n"), chosen.system, _Markup(chosen.sep)]
    for role, parts in turns:
        name = chosen.user if role == "user" else chosen.assistant
        pieces += [_Markup(name), *_body(parts), _Markup(chosen.sep)]
    return [*pieces, _Markup(chosen.assistant)]


def _llama_2(chosen: Template, turns: Sequence[_Turn]) -> list[_Piece]:
    pieces: list[_Piece] = []
    for index, (role, parts) in enumerate(turns):
        if role == "assistant":
            pieces += [_Markup(" "), *_body(parts), _Markup(f" {chosen.sep2}")]
            continue
        begin = _Markup(f"{chosen.sep if index else ''}[INST] ")
        wrapped = f"<<SYS>>\n{chosen.system}\n<</SYS>>\n\n" if chosen.system and not index else ""
        pieces += [begin, wrapped, *_body(parts), _Markup(" [/INST]")]
    return pieces


def _plain(chosen: Template, turns: Sequence[_Turn]) -> list[_Piece]:
    pieces: list[_Piece] = [chosen.system]
    for role, parts in turns:
        pieces += [*_body(parts), _Markup(chosen.sep if role == "user" else chosen.sep2)]
    return pieces


def _raw(_chosen: Template, turns: Sequence[_Turn]) -> list[_Piece]:
    return [
        part if isinstance(part, Picture) else _Markup(part) for _, parts in turns for part in parts
    ]


def _joined(pieces: Iterable[_Piece], specials: Sequence[str]) -> tuple[Item, ...]:
    """Return the items with neighbouring texts joined, so that they are tokenized as one."""
    items: list[Item] = []
    for piece in pieces:
        parts: Iterable[Item] = (
            _split(piece.text, specials) if isinstance(piece, _Markup) else (piece,)
        )
        for part in parts:
            if isinstance(part, str) and items and isinstance(items[-1], str):
                items[-1] += part
            elif part != "":
                items.append(part)
    return tuple(items)


def _split(text: str, specials: Sequence[str]) -> list[Item]:
    found = [(text.index(token), token) for token in specials if token in text]
    if not found:
        return [text]
    at, token = min(found)
    rest = text[at + len(token) :]
    return [*([text[:at]] if at else []), Special(token), *(_split(rest, specials) if rest else [])]
