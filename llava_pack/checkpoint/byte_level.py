"""Byte-level tokenizers: a character for each byte, and `tokenizer.json` for `vocab.json`.

Source: openai/gpt-2 src/encoder.py bytes_to_unicode; transformers models/qwen2
tokenization_qwen2.py (normaliser, pre-tokenizer, no space in front).
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.config import read_config, read_small
from llava_pack.checkpoint.defects import shown
from llava_pack.checkpoint.token_files import decoder_tokens, listed_tokens
from llava_pack.format.errors import CheckpointError

VOCABULARY, MERGES = "vocab.json", "merges.txt"
_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def byte_characters() -> Mapping[str, int]:
    """Return the character that stands for each byte: itself where it prints, else a later one.

    >>> byte_characters()["A"], byte_characters()["\u0120"], byte_characters()["\u010a"]
    (65, 32, 10)
    """
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    moved = {chr(256 + place): byte for place, byte in enumerate(others)}
    return {chr(byte): byte for byte in printed} | moved


def piece_bytes(piece: str) -> bytes:
    """Return the bytes of a token's text; text of another kind is what it says.

    >>> piece_bytes("\u0120star"), piece_bytes("<tool>")
    (b' star', b'<tool>')
    """
    table = byte_characters()
    if all(character in table for character in piece):
        return bytes(table[character] for character in piece)
    return piece.encode()


def is_byte_level(state: Mapping[str, Any]) -> bool:
    """Return whether a `tokenizer.json` writes bytes as characters.

    >>> is_byte_level({"decoder": {"type": "ByteLevel"}}), is_byte_level({"decoder": None})
    (True, False)
    """
    return any(_has(state.get(part)) for part in ("decoder", "pre_tokenizer"))


def _has(step: Any) -> bool:
    if not isinstance(step, Mapping):
        return False
    parts = (step.get("decoders"), step.get("pretokenizers"))
    inner = [one for part in parts if isinstance(part, list) for one in part]
    return step.get("type") == "ByteLevel" or any(_has(one) for one in inner)


def joined_tokenizer(folder: Path) -> dict[str, Any]:
    """Return the `tokenizer.json` of a folder that has `vocab.json` and `merges.txt` instead.

    Raises:
        CheckpointError: a file is damaged, or the tokenizer is not Qwen's.
    """
    config = read_config(folder / "tokenizer_config.json")
    named = config.get("tokenizer_class")
    if named not in _CLASSES:
        raise CheckpointError(
            f"tokenizer_class is {shown(named)}, expected {_CLASSES[0]} beside {VOCABULARY}",
            subject="tokenizer_config.json",
            hint="put the publisher's tokenizer.json beside it",
        )
    try:
        lines = read_small(folder / MERGES).decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError("cannot be read as UTF-8", subject=MERGES) from error
    merges = [
        line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(folder, config),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": _pre_tokenizer(),
        "post_processor": None,
        "decoder": {"type": "ByteLevel", **_plain_bytes()},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": read_config(folder / VOCABULARY),
            "merges": merges,
        },
    }


def _pre_tokenizer() -> dict[str, Any]:
    words = {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [words, {"type": "ByteLevel", **_plain_bytes()}]}


def _plain_bytes() -> dict[str, bool]:
    return {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def _added(folder: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tokens that were added to the vocabulary, by id."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    found: dict[int, dict[str, Any]] = {}
    for text, token_id in listed_tokens(folder).items():
        found[token_id] = {"content": text, **flags, "special": True}
    for token_id, entry in decoder_tokens(config).items():
        given = {key: bool(entry.get(key, value)) for key, value in flags.items()}
        special = bool(entry.get("special", False))
        found[token_id] = {"content": entry["content"], **given, "special": special}
    return [{"id": token_id, **found[token_id]} for token_id in sorted(found)]


def fast_tokenizer(folder: Path, state: Mapping[str, Any]) -> Any:
    """Return a tokenizer of the `tokenizers` library.

    Args:
        folder: which the state is from.
        state: see `tokenizer_state`.

    Raises:
        CheckpointError: the library does not take it.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(json.dumps(state))
    except Exception as error:  # the library raises bare Exception for a bad file
        whole = (folder / "tokenizer.json").is_file()
        subject = "tokenizer.json" if whole else VOCABULARY
        raise CheckpointError(
            "not a tokenizer", subject=subject, hint="download it again"
        ) from error


def tokenizer_state(folder: Path) -> dict[str, Any] | None:
    """Return what `tokenizer.json` says, or would say; None where neither it nor `vocab.json` is.

    Raises:
        CheckpointError: a file is damaged, or the tokenizer is of a kind that is not supported.
    """
    if (folder / "tokenizer.json").is_file():
        return read_config(folder / "tokenizer.json")
    if (folder / VOCABULARY).is_file():
        return joined_tokenizer(folder)
    return None
