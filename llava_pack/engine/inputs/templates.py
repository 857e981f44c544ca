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
from llava_pack.engine.inputs.turns import Turn, conversation
from llava_pack.engine.port import Message, Part, Picture
from llava_pack.format.errors import UsageError


@dataclass(frozen=True, slots=True)
class Special:
    """A special token by its text, for example `</s>`."""

    token: str


Item = str | Special | Picture


def render(
    messages: Sequence[Message], conv_mode: str, *, new_turn: bool | None = None
) -> tuple[Item, ...]:
    """Return the prompt that asks the model for the next turn, or for the rest of its last one.

    Pictures come before the text of their message, each on a line of its own, as LLaVA was
    trained; those that stand in a text stay there. A later system message has a turn of its own
    where the template has such turns; elsewhere it is text of a person's turn.

    Args:
        messages: texts and pictures in the order in which they were given.
        conv_mode: the template's name.
        new_turn: see `Request`.

    Raises:
        UsageError: unknown template; else as `conversation`.
    """
    chosen = template(conv_mode)
    given = conversation(messages, new_turn=new_turn)
    if not chosen.head:
        given = given.with_late_systems_asked()
    if given.system is not None:
        chosen = replace(chosen, system=given.system)
    if chosen.style == "llama_2" or (chosen.style == "turns" and not chosen.head):
        given = given.begun_by_user()  # the system text stands in it
    styles = {
        "single": _dialogue,
        "two": _dialogue,
        "turns": _turn_by_turn,
        "llama_2": _llama_2,
        "plain": _plain,
        "raw": _raw,
    }
    pieces = styles[chosen.style](chosen, given.turns)
    if given.ending == "continued":
        del pieces[-1]  # what ends a turn
    elif given.ending == "opened":
        pieces.append(Markup(_opening(chosen)))
    return _joined(pieces, chosen.specials)


def render_own(
    messages: Sequence[Message],
    chat_template: ChatTemplate,
    specials: Collection[str],
    *,
    new_turn: bool | None = None,
) -> tuple[Item, ...]:
    """Return the prompt that the checkpoint's own chat template writes.

    A template may refuse a system message, or one that is not the first, or a conversation that
    the assistant begins: then it is given what says the same in turns that it takes.

    Args:
        messages: as `render` takes them.
        chat_template: of the checkpoint.
        specials: the tokens of its vocabulary, which the template may write.
        new_turn: see `Request`.

    Raises:
        UsageError: as `conversation`; or the template refuses the conversation.
    """
    refused: list[UsageError] = []
    for shape in conversation(messages, new_turn=new_turn).shapes():
        system = () if shape.system is None else (TemplateTurn("system", (shape.system,)),)
        turns = [*system, *(TemplateTurn(role, parts) for role, parts in shape.turns)]
        try:
            return _joined(chat_template.render(turns, shape.ending), specials)
        except UsageError as error:
            refused.append(error)
    raise refused[0]


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


def _opening(chosen: Template) -> str:
    """Return what begins the model's turn."""
    if chosen.style == "turns":
        return chosen.assistant
    return f"{chosen.assistant}:" if chosen.style in {"single", "two"} else ""


def _said(role: str, parts: Sequence[Part]) -> Sequence[Part]:
    """Return a turn's parts; an answer without the space that the template writes before it."""
    return [str(parts[0]).removeprefix(" ")] if role == "assistant" else parts


def _dialogue(chosen: Template, turns: Sequence[Turn]) -> list[_Piece]:
    pieces: list[_Piece] = [chosen.system, Markup(chosen.sep)]
    for role, parts in turns:
        name, sep = (chosen.user, chosen.sep) if role == "user" else (chosen.assistant, chosen.sep2)
        pieces += [Markup(f"{name}: "), *body(_said(role, parts)), Markup(sep)]
    return pieces


def _turn_by_turn(chosen: Template, turns: Sequence[Turn]) -> list[_Piece]:
    pieces: list[_Piece] = []
    before = chosen.system and not chosen.head
    if chosen.system and chosen.head:
        pieces += [Markup(chosen.head), chosen.system, Markup(chosen.sep)]
    names = {"system": chosen.head, "user": chosen.user, "assistant": chosen.assistant}
    for index, (role, parts) in enumerate(turns):
        sep = chosen.sep2 if role == "assistant" else chosen.sep
        system = f"{chosen.system}\n\n" if before and not index else ""
        pieces += [Markup(names[role]), system, *body(parts), Markup(sep)]
    return pieces


def _llama_2(chosen: Template, turns: Sequence[Turn]) -> list[_Piece]:
    pieces: list[_Piece] = []
    for index, (role, parts) in enumerate(turns):
        if role == "assistant":
            pieces += [Markup(" "), *body(_said(role, parts)), Markup(f" {chosen.sep2}")]
            continue
        begin = Markup(f"{chosen.sep if index else ''}[INST] ")
        wrapped = f"<<SYS>>\n{chosen.system}\n<</SYS>>\n\n" if chosen.system and not index else ""
        pieces += [begin, wrapped, *body(parts), Markup(" [/INST]")]
    return pieces


def _plain(chosen: Template, turns: Sequence[Turn]) -> list[_Piece]:
    pieces: list[_Piece] = [chosen.system]
    for role, parts in turns:
        pieces += [*body(parts), Markup(chosen.sep if role == "user" else chosen.sep2)]
    return pieces


def _raw(_chosen: Template, turns: Sequence[Turn]) -> list[_Piece]:
    pieces: list[_Piece] = []
    for _, parts in turns:
        pieces += [part if isinstance(part, Picture) else Markup(part) for part in parts]
    return [*pieces, Markup("")]  # nothing ends a turn


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
