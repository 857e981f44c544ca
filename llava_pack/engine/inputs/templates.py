"""A conversation as the items of a prompt, by one of our templates or by the checkpoint's own.

A rendered prompt is a sequence of texts, special tokens and pictures. Text from people stays
text: a `</s>` or `<image>` that somebody types never becomes the token, because only the
template's own `Special` and the message's own `Picture` parts do.

Source: haotian-liu/LLaVA and LLaVA-VL/LLaVA-NeXT llava/conversation.py (the styles).
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from llava_pack.checkpoint.chat_template import ChatTemplate, Markup, TemplateTurn
from llava_pack.checkpoint.message_body import body
from llava_pack.checkpoint.special_tokens import SpecialTokens
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
    trained; those that stand in a text stay there. Neighbouring messages of one role count as one.

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
        "turns": _turn_by_turn,
        "llama_2": _llama_2,
        "plain": _plain,
        "raw": _raw,
    }
    return _joined(styles[chosen.style](chosen, turns), chosen.specials)


def render_own(
    messages: Sequence[Message], chat_template: ChatTemplate, specials: Collection[str]
) -> tuple[Item, ...]:
    """Return the prompt that the checkpoint's own chat template writes.

    Args:
        messages: as `render` takes them.
        chat_template: of the checkpoint.
        specials: the tokens of its vocabulary, which the template may write.

    Raises:
        UsageError: as `render`; or the template refuses the conversation.
    """
    system, turns = _turns(messages)
    first = [TemplateTurn("system", (system,))] if system is not None else []
    given = [*first, *(TemplateTurn(role, parts) for role, parts in turns)]
    return _joined(chat_template.render(given), specials)


def without_taken_spaces(items: Sequence[Item], tokens: SpecialTokens) -> tuple[Item, ...]:
    """Return a prompt without the spaces that its special tokens take with them.

    Source: huggingface/tokenizers AddedToken (`lstrip`, `rstrip`).
    """
    given = [None, *items, None]
    spaced: list[Item] = []
    for before, item, behind in zip(given, items, given[2:], strict=False):
        text = item
        if isinstance(text, str) and _name(before) in tokens.behind:
            text = text.lstrip()
        if isinstance(text, str) and _name(behind) in tokens.before:
            text = text.rstrip()
        spaced.append(text)
    return tuple(item for item in spaced if item != "")


def _name(item: Item | None) -> str:
    return item.token if isinstance(item, Special) else ""


# A template's own words are `Markup`: only there are special tokens looked for.
_Piece = Markup | str | Picture
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


def _dialogue(chosen: Template, turns: Sequence[_Turn]) -> list[_Piece]:
    pieces: list[_Piece] = [chosen.system, Markup(chosen.sep)]
    for role, parts in turns:
        name, sep = (chosen.user, chosen.sep) if role == "user" else (chosen.assistant, chosen.sep2)
        pieces += [Markup(f"{name}: "), *body(parts), Markup(sep)]
    return [*pieces, Markup(f"{chosen.assistant}:")]


def _turn_by_turn(chosen: Template, turns: Sequence[_Turn]) -> list[_Piece]:
    pieces: list[_Piece] = []
    before = chosen.system and not chosen.head
    if chosen.system and chosen.head:
        pieces += [Markup(chosen.head), chosen.system, Markup(chosen.sep)]
    for index, (role, parts) in enumerate(turns):
        name, sep = (chosen.user, chosen.sep) if role == "user" else (chosen.assistant, chosen.sep2)
        system = f"{chosen.system}\n\n" if before and not index else ""
        pieces += [Markup(name), system, *body(parts), Markup(sep)]
    return [*pieces, Markup(chosen.assistant)]


def _llama_2(chosen: Template, turns: Sequence[_Turn]) -> list[_Piece]:
    pieces: list[_Piece] = []
    for index, (role, parts) in enumerate(turns):
        if role == "assistant":
            pieces += [Markup(" "), *body(parts), Markup(f" {chosen.sep2}")]
            continue
        begin = Markup(f"{chosen.sep if index else ''}[INST] ")
        wrapped = f"<<SYS>>\n{chosen.system}\n<</SYS>>\n\n" if chosen.system and not index else ""
        pieces += [begin, wrapped, *body(parts), Markup(" [/INST]")]
    return pieces


def _plain(chosen: Template, turns: Sequence[_Turn]) -> list[_Piece]:
    pieces: list[_Piece] = [chosen.system]
    for role, parts in turns:
        pieces += [*body(parts), Markup(chosen.sep if role == "user" else chosen.sep2)]
    return pieces


def _raw(_chosen: Template, turns: Sequence[_Turn]) -> list[_Piece]:
    return [
        part if isinstance(part, Picture) else Markup(part) for _, parts in turns for part in parts
    ]


def _joined(pieces: Iterable[_Piece], specials: Collection[str]) -> tuple[Item, ...]:
    """Return the items with neighbouring texts joined, so that they are tokenized as one."""
    items: list[Item] = []
    for piece in pieces:
        parts: Iterable[Item] = (
            _split(piece.text, specials) if isinstance(piece, Markup) else (piece,)
        )
        for part in parts:
            if isinstance(part, str) and items and isinstance(items[-1], str):
                items[-1] += part
            elif part != "":
                items.append(part)
    return tuple(items)


def _split(text: str, specials: Collection[str]) -> list[Item]:
    """Return a text with its special tokens apart; of two that begin alike, the longer one."""
    if not specials:
        return [text]
    longest_first = sorted(specials, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
    return [Special(part) if index % 2 else part for index, part in enumerate(parts)]
