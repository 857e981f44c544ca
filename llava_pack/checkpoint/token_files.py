"""Tokens that a folder's small files name beside its vocabulary; each file is read here only.

Source: transformers tokenization_utils_base.py (`added_tokens.json`, `added_tokens_decoder`,
`special_tokens_map.json`), generation/configuration_utils.py (`eos_token_id`);
huggingface/tokenizers `tokenizer.json` (`added_tokens`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.chat_template import token_text
from llava_pack.checkpoint.config import read_config
from llava_pack.checkpoint.defects import shown
from llava_pack.checkpoint.values import refusal

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
_MOST_ID = 1 << 31


def listed_tokens(folder: Path) -> dict[str, int]:
    """Return text and id of each token of `added_tokens.json`.

    Raises:
        CheckpointError: an id is none.
    """
    name = "added_tokens.json"
    found = read_config(folder / name)
    return {text: _id(value, f"the id of {shown(text)}", name) for text, value in found.items()}


def decoder_tokens(config: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """Return the tokens of `added_tokens_decoder` by id; one that is a text alone has no flags.

    Args:
        config: what `tokenizer_config.json` says.

    Raises:
        CheckpointError: they are not tokens by id.
    """
    key, name = "added_tokens_decoder", "tokenizer_config.json"
    given = config.get(key) or {}
    if not isinstance(given, Mapping):
        raise refusal(f"{key} is {shown(given)}, expected an object", subject=name)
    found: dict[int, Mapping[str, Any]] = {}
    for digits, entry in given.items():
        number = int(digits) if digits.isdecimal() and len(digits) < len(str(_MOST_ID)) else None
        found[_id(number, f"an id of {key}", name)] = _entry(entry, key, name)
    return found


def state_tokens(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entries of `added_tokens` in a `tokenizer.json`: text, id, flags.

    Raises:
        CheckpointError: they are not a list of tokens.
    """
    key, name = "added_tokens", "tokenizer.json"
    given = state.get(key) or []
    if not isinstance(given, list):
        raise refusal(f"{key} is {shown(given)}, expected a list", subject=name)
    found = [_entry(one, key, name) for one in given]
    for one in found:
        _id(one.get("id"), f"the id of {shown(one['content'])}", name)
    return found


def named_specials(folder: Path) -> frozenset[str]:
    """Return the special tokens that have a part of their own, as `bos_token`.

    Raises:
        CheckpointError: those without one are not a list.
    """
    found = ["<s>", "</s>", "<unk>"]
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        values = read_config(folder / name)
        others = values.get("additional_special_tokens") or []
        if not isinstance(others, list):
            text = f"additional_special_tokens is {shown(others)}, expected a list"
            raise refusal(text, subject=name)
        found += [token_text(one) for one in (*map(values.get, _NAMED), *others)]
    return frozenset(found)


def eos_ids(folder: Path) -> frozenset[int]:
    """Return the ids that end an answer, as config.json and generation_config.json name them.

    Raises:
        CheckpointError: one is no id.
    """
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        values = read_config(folder / name)
        part = values.get("text_config") or {}
        if not isinstance(part, Mapping):
            raise refusal(f"text_config is {shown(part)}, expected an object", subject=name)
        named = values.get("eos_token_id", part.get("eos_token_id"))
        ids = named if isinstance(named, list) else [] if named is None else [named]
        found.update(_id(one, "eos_token_id", name) for one in ids)
    return frozenset(found)


def _entry(value: Any, key: str, subject: str) -> Mapping[str, Any]:
    """Return a token as an object with its text."""
    entry = {"content": value} if isinstance(value, str) else value
    if not isinstance(entry, Mapping) or not isinstance(entry.get("content"), str):
        text = f"{key} has {shown(value)}, expected a token with its content"
        raise refusal(text, subject=subject)
    return entry


def _id(value: Any, what: str, subject: str) -> int:
    if type(value) is not int or not 0 <= value < _MOST_ID:
        raise refusal(f"{what} is {shown(value)}, expected the id of a token", subject=subject)
    return value
