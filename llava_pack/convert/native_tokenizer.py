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
from typing import Any

from llava_pack.convert.native_config import IMAGE_TOKEN, PAD_TOKEN
from llava_pack.format.errors import CheckpointError

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_TEXTS = ("bos_token", "eos_token", "unk_token")
_SPACE = "\u2581"


def is_legacy(config: Mapping[str, Any], language: str = "llama") -> bool:
    """Say whether text behind a special token begins with a space of its own.

    LLaVA's own code takes the fast tokenizer for Mistral, which puts one there whatever is said.

    Args:
        config: tokenizer_config.json.
        language: the language model's type.
    """
    return language == "mistral" or config.get("legacy") is not False


def with_image_token(
    tokenizer: bytes, config: Mapping[str, Any], words: Iterable[str] = ()
) -> tuple[bytes, dict[str, int], int]:
    """Return `tokenizer.json` with the new tokens, the ids of `<image>` and `<pad>`, and its size.

    New tokens follow the vocabulary without a gap; one that is there already keeps its id.

    Args:
        tokenizer: tokenizer.json of the original checkpoint.
        config: its tokenizer_config.json.
        words: further tokens that LLaVA's code adds to this checkpoint's tokenizer.

    Raises:
        CheckpointError: it is no `tokenizer.json`.
    """
    try:
        state = json.loads(tokenizer)
        known = {str(text): int(number) for text, number in state["model"]["vocab"].items()}
        added = list(state.get("added_tokens") or ())
        known |= {str(entry["content"]): int(entry["id"]) for entry in added}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("not a tokenizer", subject="tokenizer.json") from error
    size = max(known.values(), default=-1) + 1
    for text in (*words, IMAGE_TOKEN, PAD_TOKEN):
        if text in known:
            continue
        flags: dict[str, Any] = dict.fromkeys(_FLAGS, False)
        added.append({"id": size, "content": text, **flags, "special": True})
        known[text] = size
        size += 1
    state["added_tokens"] = added
    if not is_legacy(config):
        _spaced_at_the_beginning_only(state)
    data = json.dumps(state, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    return data, {text: known[text] for text in (IMAGE_TOKEN, PAD_TOKEN)}, size


def tokenizer_config(config: Mapping[str, Any], *, tiles: bool) -> dict[str, Any]:
    """Return tokenizer_config.json for a tokenizer that is read from `tokenizer.json`.

    Args:
        config: that of the original checkpoint.
        tiles: whether pictures are cut into tiles.
    """
    texts = {key: _text(config[key]) for key in _TEXTS if config.get(key)}
    length = config.get("model_max_length")
    return {
        "add_bos_token": bool(config.get("add_bos_token", True)),
        "add_eos_token": bool(config.get("add_eos_token", False)),
        **texts,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {"image_token": IMAGE_TOKEN},
        "image_token": IMAGE_TOKEN,
        "legacy": is_legacy(config),
        "model_max_length": length if isinstance(length, int) else 2048,
        "pad_token": PAD_TOKEN,
        "padding_side": "left",
        "processor_class": f"Llava{'Next' if tiles else ''}Processor",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


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
