"""A folder's chat template: where it lies, and how it takes a conversation, by trying it out.

Source: transformers processing_utils.py, tokenization_utils_base.py (where the template is looked
for, what it may call by name).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.chat_template import (
    MARK,
    ChatTemplate,
    Ends,
    Markup,
    TemplateTurn,
    as_it_is,
    token_text,
    written_text,
)
from llava_pack.checkpoint.config import read_config, read_small
from llava_pack.checkpoint.jinja_sandbox import rendered
from llava_pack.checkpoint.message_body import body
from llava_pack.format.errors import CheckpointError

IMAGE = "<image>"
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
_ENDS: tuple[Ends, ...] = (as_it_is, str.strip, str.lstrip, str.rstrip)
_HINT = "choose a conversation template with --conv-mode"


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
        image=image if isinstance(image, str) and image else IMAGE,
    )


def tried(text: str, names: Mapping[str, str], *, image: str = IMAGE) -> ChatTemplate:
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
    if MARK in template.text:
        raise CheckpointError("it has characters for private use")
    ways = ({"user": user, "assistant": told} for user, told in product(_ENDS, _ENDS))
    found = _fitting(template, _TRIAL, ways)
    pieces = found.pieces(_TRIAL)
    answer = found.ends["assistant"](_TRIAL[1].parts[0])
    after = next(iter(pieces[pieces.index(answer) + 1 :]), None)
    found = replace(found, after=after.text if isinstance(after, Markup) else "")
    try:
        return _fitting(found, (_SYSTEM, *_TRIAL), ({**found.ends, "system": one} for one in _ENDS))
    except CheckpointError:
        return found  # it takes no system message, which is told when there is one


def _fitting(
    template: ChatTemplate, turns: Sequence[TemplateTurn], ways: Iterable[Mapping[str, Ends]]
) -> ChatTemplate:
    """Return a template with the first of some ways in which it gives what it really writes."""
    real = rendered(template.text, template.values([_plain(one, template) for one in turns]))
    for ends in ways:
        candidate = replace(template, ends=ends)
        pieces = candidate.pieces(turns)
        if "".join(written_text(piece, template.image) for piece in pieces) == real:
            return candidate
    raise CheckpointError("it changes the texts of a conversation")


def _plain(turn: TemplateTurn, template: ChatTemplate) -> dict[str, Any]:
    """Return a message as transformers would give it, texts and all."""
    content: Any = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
        for part in turn.parts
    ]
    if not template.lists:
        content = "".join(written_text(one, template.image) for one in body(turn.parts))
    return {"role": turn.role, "content": content}


def _default(value: Any) -> str | None:
    """Return a template of `chat_template`, which may be a list of named ones."""
    if isinstance(value, str):
        return value
    for entry in value if isinstance(value, list) else ():
        if isinstance(entry, dict) and entry.get("name") == "default":
            return _default(entry.get("template"))
    return None
