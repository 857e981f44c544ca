"""The tokenizer of a transformers-native folder: the original, with `<image>` and `<pad>`. Pure.

LLaVA's own code tokenizes the text between pictures piece by piece, so that each piece begins with
a space of its own; what follows another special token begins with one only where the tokenizer is
`legacy`. `tokenizer.json` knows one rule for both. Where the tokenizer is not legacy, it gets the
rule without the space, and the chat template writes the one behind `<image>`.

Source: haotian-liu/LLaVA llava/mm_utils.py tokenizer_image_token; transformers
models/llama/tokenization_llama.py (`legacy`).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llava_pack.convert.native_config import IMAGE_TOKEN, PAD_TOKEN, VIDEO_TOKEN
from llava_pack.format.errors import CheckpointError

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_TEXTS = ("bos_token", "eos_token", "unk_token")
_SPACE = "\u2581"


def is_legacy(config: Mapping[str, Any], language: str = "llama") -> bool:
    """Say whether text behind a special token begins with a space of its own.

    LLaVA's own code takes the fast tokenizer for Mistral, which puts one there whatever is said.
    """
    return language == "mistral" or config.get("legacy") is not False


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended:
    """A tokenizer with the new tokens.

    Attributes:
        data: `tokenizer.json`.
        ids: of the new tokens.
        trained: how many ids the model was trained with; LLaVA's code cuts its tables to them.
        size: how many ids there are.
        filler: id of a token that no answer has.
    """

    data: bytes
    ids: Mapping[str, int]
    trained: int
    size: int
    filler: int


def with_image_token(
    tokenizer: bytes,
    config: Mapping[str, Any],
    words: Iterable[str] = (),
    *,
    video: bool = False,
) -> Extended:
    """Return a tokenizer with `<image>`, `<pad>` and further words.

    Args:
        tokenizer: see `with_tokens`.
        config: see `with_tokens`.
        words: further tokens that LLaVA's code adds to this checkpoint's tokenizer.
        video: add `<video>` too, which some classes want an id of.

    Raises:
        CheckpointError: it is no `tokenizer.json`.
    """
    own = (IMAGE_TOKEN, PAD_TOKEN, *((VIDEO_TOKEN,) if video else ()))
    return with_tokens(tokenizer, config, words, own)


def with_tokens(
    tokenizer: bytes, config: Mapping[str, Any], words: Iterable[str], own: Iterable[str]
) -> Extended:
    """Return a tokenizer with further tokens.

    New tokens follow the vocabulary without a gap; one that is there already keeps its id.

    Args:
        tokenizer: tokenizer.json of the original checkpoint.
        config: its tokenizer_config.json.
        words: tokens that the model was trained with.
        own: tokens that it was not trained with; their ids are told.

    Raises:
        CheckpointError: it is no `tokenizer.json`.
    """
    try:
        state = json.loads(tokenizer)
        known = {str(text): int(number) for text, number in state["model"]["vocab"].items()}
        added = list(state.get("added_tokens") or ())
        known |= {str(entry["content"]): int(entry["id"]) for entry in added}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError("not a tokenizer", subject="tokenizer.json") from error
    _add(words, known, added)
    trained, filler = _size(known), _filler(state, added, config, known)
    own = tuple(own)
    _add(own, known, added)
    state["added_tokens"] = added
    if not is_legacy(config):
        _spaced_at_the_beginning_only(state)
    return Extended(
        data=json.dumps(state, ensure_ascii=False, separators=(",", ":")).encode() + b"\n",
        ids={text: known[text] for text in own},
        trained=trained,
        size=_size(known),
        filler=filler,
    )


def _filler(
    state: Mapping[str, Any],
    added: Iterable[Mapping[str, Any]],
    config: Mapping[str, Any],
    known: Mapping[str, int],
) -> int:
    """Return the id of a token that no answer has: `<unk>`, or one that only begins turns."""
    unknown = state["model"].get("unk_token")
    if unknown in known:
        return known[unknown]
    ends = {_text(config.get(key) or "") for key in ("eos_token", "pad_token")}
    others = (int(e["id"]) for e in added if e.get("special") and e["content"] not in ends)
    return next(others, 0)


def _add(words: Iterable[str], known: dict[str, int], added: list[dict[str, Any]]) -> None:
    """Add words that are not known, behind the others."""
    for text in words:
        if text in known:
            continue
        known[text] = _size(known)
        flags: dict[str, Any] = dict.fromkeys(_FLAGS, False)
        added.append({"id": known[text], "content": text, **flags, "special": True})


def _size(known: Mapping[str, int]) -> int:
    return max(known.values(), default=-1) + 1


def tokenizer_config(config: Mapping[str, Any], tokenizer: bytes, *, stem: str) -> dict[str, Any]:
    """Return tokenizer_config.json for a tokenizer that is read from `tokenizer.json`.

    Args:
        config: that of the original checkpoint.
        tokenizer: `tokenizer.json`; the words that it adds are told here too, for readers of
            `tokenizer.model`.
        stem: what the name of the processor's class begins with.
    """
    texts = named_texts(config, _TEXTS)
    length = config.get("model_max_length")
    return {
        "add_bos_token": bool(config.get("add_bos_token", True)),
        "add_eos_token": bool(config.get("add_eos_token", False)),
        "added_tokens_decoder": told_tokens(tokenizer),
        **texts,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {"image_token": IMAGE_TOKEN},
        "image_token": IMAGE_TOKEN,
        "legacy": is_legacy(config),
        "model_max_length": length if isinstance(length, int) else 2048,
        "pad_token": PAD_TOKEN,
        "padding_side": "left",
        "processor_class": f"{stem}Processor",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def told_tokens(tokenizer: bytes) -> dict[str, Any]:
    """Return the tokens beside the vocabulary by id, without those that conversion brought."""
    return {
        str(entry["id"]): {key: entry[key] for key in ("content", *_FLAGS, "special")}
        for entry in json.loads(tokenizer)["added_tokens"]
        if entry["content"] not in (IMAGE_TOKEN, PAD_TOKEN, VIDEO_TOKEN)
    }


def named_texts(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, str]:
    """Return the special tokens that a tokenizer_config.json names under some keys."""
    return {key: _text(config[key]) for key in keys if config.get(key)}


def _text(entry: Any) -> str:
    return str(entry.get("content", "")) if isinstance(entry, Mapping) else str(entry)


def _spaced_at_the_beginning_only(state: dict[str, Any]) -> None:
    """Put the space before the first piece of a text, not behind each special token."""
    normalizer = state.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    prefix = [step for step in steps if step.get("type") == "Prepend"]
    if not prefix or state.get("pre_tokenizer"):
        return
    kept = [
        step
        for step in steps
        if step.get("type") != "Prepend"
        and not (step.get("type") == "Replace" and step.get("content") == _SPACE)
    ]
    state["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    state["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": _SPACE,
        "prepend_scheme": "first",
        "split": False,
    }
