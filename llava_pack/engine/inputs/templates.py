"""LLaVA's conversation templates as data, and the one function that renders them.

A rendered prompt is a sequence of texts, special tokens and pictures. Text from people stays
text: a `</s>` or `<image>` that somebody types never becomes the token, because only the
template's own `Special` and the message's own `Picture` parts do.

Source: haotian-liu/LLaVA llava/conversation.py (the literals and the five styles) and
llava/serve/cli.py (which name takes which template).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from llava_pack.engine.port import ROLES, Message, Picture
from llava_pack.format.errors import UsageError

Style = Literal["single", "two", "chatml", "llama_2", "plain", "raw"]


@dataclass(frozen=True, slots=True)
class Special:
    """A special token by its text, for example `</s>`."""

    token: str


Item = str | Special | Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One conversation template.

    `sep` follows the system text and a person's turn, `sep2` the model's turn. `stops` end an
    answer; those in `specials` are single tokens, the others are text.
    """

    style: Style
    system: str = ""
    user: str = ""
    assistant: str = ""
    sep: str = ""
    sep2: str = ""
    specials: tuple[str, ...] = ("<s>", "</s>")
    stops: tuple[str, ...] = ("</s>",)


_POLITE = "gives helpful, detailed, and polite answers to the"
_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    f"The assistant {_POLITE} human's questions."
)
_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    f"The assistant {_POLITE} user's questions."
)
_VISION = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
_MPT = (
    "A conversation between a user and an LLM-based AI assistant. "
    "The assistant gives helpful and honest answers."
)
_V1 = Template(style="two", system=_HUMAN, user="USER", assistant="ASSISTANT", sep=" ", sep2="</s>")
_CHATML = Template(
    style="chatml",
    system="Answer the questions.",
    user="<|im_start|>user\n",
    assistant="<|im_start|>assistant\n",
    sep="<|im_end|>",
    sep2="<|im_end|>",
    specials=("<|im_start|>", "<|im_end|>"),
    stops=("<|im_end|>",),
)
TEMPLATES: Mapping[str, Template] = MappingProxyType(
    {
        "llava_v1": _V1,
        "vicuna_v1": replace(_V1, system=_USER),
        "mistral_instruct": Template(style="llama_2", sep2="</s>"),
        "llava_llama_2": Template(style="llama_2", system=_VISION, sep="<s>", sep2="</s>"),
        "chatml_direct": _CHATML,
        "mpt": replace(_CHATML, system=_MPT),
        "llava_v0": Template(
            style="single",
            system=_HUMAN,
            user="Human",
            assistant="Assistant",
            sep="###",
            sep2="###",
            stops=("###", "</s>"),
        ),
        "plain": Template(style="plain", sep="\n", sep2="\n"),
    }
)
RAW = "raw"
"""No template: a prompt that its sender has rendered already, special tokens in it included."""
_RAW = Template(style="raw", specials=("<s>", "</s>", "<|im_start|>", "<|im_end|>"), stops=())


def template(conv_mode: str) -> Template:
    """Return a template by its name.

    Raises:
        UsageError: there is none of that name; the message lists them.
    """
    if conv_mode == RAW:
        return _RAW
    if conv_mode not in TEMPLATES:
        names = ", ".join(sorted(TEMPLATES))
        raise UsageError(f"unknown conversation template {conv_mode!r}, expected one of: {names}")
    return TEMPLATES[conv_mode]


def choose(name: str, config: Mapping[str, Any] | None = None) -> str:
    """Return the template for a checkpoint: by its name as LLaVA does, else by its config.

    A name that says nothing takes `llava_v1`, the template of every Vicuna-based LLaVA since
    1.5, where LLaVA's own code would silently take `llava_v0`.

    >>> choose("llava-v1.5-7b"), choose("llava-v1.6-mistral-7b"), choose("my-finetune")
    ('llava_v1', 'mistral_instruct', 'llava_v1')
    """
    lowered = name.lower()
    by_name = (
        ("llama-2", "llava_llama_2"),
        ("mistral", "mistral_instruct"),
        ("v1.6-34b", "chatml_direct"),
        ("v1", "llava_v1"),
        ("mpt", "mpt"),
        ("v0", "llava_v0"),
    )
    for part, conv_mode in by_name:
        if part in lowered:
            return conv_mode
    model_type = str((config or {}).get("model_type", ""))
    by_type = {"llava_mistral": "mistral_instruct", "llava_mpt": "mpt"}
    return by_type.get(model_type, "llava_v1")


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
