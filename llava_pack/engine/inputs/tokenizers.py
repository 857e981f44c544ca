"""Tokenizers of LLaVA checkpoints, with the ids that LLaVA's own code gets.

LLaVA tokenizes with transformers' slow LlamaTokenizer: text between special tokens and pictures
goes to sentencepiece piece by piece. Where a checkpoint has `tokenizer.model` the same is done
here; a folder with `tokenizer.json` alone is read by the `tokenizers` library.

Source: transformers 4.37 models/llama/tokenization_llama.py (the meaning of `legacy`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from llava_pack.checkpoint.byte_level import (
    fast_tokenizer,
    is_byte_level,
    piece_bytes,
    tokenizer_state,
)
from llava_pack.checkpoint.chat_template import token_text
from llava_pack.checkpoint.config import read_config, read_small
from llava_pack.checkpoint.picture_words import added_ids
from llava_pack.checkpoint.special_tokens import llama_vocabulary
from llava_pack.checkpoint.token_files import named_specials, state_tokens
from llava_pack.format.errors import CheckpointError

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"


class Tokenizer(Protocol):
    """Text to ids and back; special tokens in text are text."""

    @property
    def bos_id(self) -> int | None:
        """Return the id that begins every prompt, if there is one."""

    @property
    def size(self) -> int:
        """Return the number of ids."""

    def encode(self, text: str, *, continued: bool) -> list[int]:
        """Return the ids of a text; `continued` where a special token came right before it."""

    def encode_inside(self, text: str) -> list[int]:
        """Return the ids of a text that goes on with another; nothing is put before it."""

    def special_id(self, token: str) -> int | None:
        """Return the id of a special token, None where the vocabulary has none."""

    def lead(self, token: str) -> list[int]:
        """Return the ids that come before a special token that begins a text."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return what a generated token adds to the answer; nothing for special ones."""


def read_tokenizer(folder: Path, *, words: Sequence[str] = (), fast: bool = False) -> Tokenizer:
    """Return the tokenizer of a checkpoint's folder.

    Args:
        folder: with tokenizer.model, tokenizer.json, or vocab.json and merges.txt.
        words: special tokens that LLaVA's own code adds where the folder has them not.
        fast: LLaVA's own code takes the fast tokenizer for this model, which puts a space before
            every text, whatever `legacy` says.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    if llama_vocabulary(folder) is not None:
        return SentencePieceTokenizer(folder, words=words, fast=fast)
    state = tokenizer_state(folder)
    if state is not None:
        return JsonTokenizer(folder, state)
    raise CheckpointError(
        "no tokenizer: expected tokenizer.model, tokenizer.json or vocab.json",
        subject=folder.name,
        hint="copy the whole checkpoint folder again",
    )


class SentencePieceTokenizer:
    """`tokenizer.model`, with the tokens that the folder adds to it."""

    def __init__(self, folder: Path, *, words: Sequence[str] = (), fast: bool = False) -> None:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

        path = folder / "tokenizer.model"
        self._config = read_config(folder / "tokenizer_config.json")
        try:
            data = read_small(path)
            self._model = SentencePieceProcessor(model_proto=data)
            bare = sentencepiece_model_pb2.ModelProto.FromString(data)
            bare.normalizer_spec.add_dummy_prefix = False
            self._bare = SentencePieceProcessor(model_proto=bare.SerializeToString())
        except (RuntimeError, OSError, DecodeError) as error:
            raise CheckpointError(
                "not a sentencepiece model, or a damaged one", subject=path.name
            ) from error
        self._added = added_ids(folder, self._model.get_piece_size(), words)
        self._by_id = {token_id: token for token, token_id in self._added.items()}
        self._known = named_specials(folder)
        self._bos = _named_bos(folder, self._config)
        self._legacy = fast or self._config.get("legacy") is not False

    @property
    def bos_id(self) -> int | None:
        """Return the id that begins every prompt, if there is one."""
        if self._config.get("add_bos_token") is False or self._model.bos_id() < 0:
            return None
        if self._bos is None:
            return int(self._model.bos_id())
        named = self.special_id(self._bos)
        return int(self._model.unk_id()) if named is None else named

    @property
    def size(self) -> int:
        """Return the number of ids."""
        return max(self._model.get_piece_size(), *(i + 1 for i in self._by_id), 0)

    def encode(self, text: str, *, continued: bool) -> list[int]:
        """Return the ids of a text; `continued` where a special token came right before it."""
        bare = continued and not self._legacy
        return list((self._bare if bare else self._model).encode(text))

    def encode_inside(self, text: str) -> list[int]:
        """Return the ids of a text that goes on with another; nothing is put before it."""
        return list(self._bare.encode(text))

    def special_id(self, token: str) -> int | None:
        """Return the id of a special token, None where the vocabulary has none."""
        if token in self._added:
            return self._added[token]
        found = int(self._model.piece_to_id(token))
        return found if self._model.id_to_piece(found) == token else None

    def lead(self, token: str) -> list[int]:
        """Return the ids that come before a special token that begins a text.

        Where a text begins with a token that only its own list of added tokens names, the space
        that begins every text stays. Source: transformers 4.37 tokenization_llama.py, tokenize.
        """
        if self._legacy or token in self._known:
            return []
        found = int(self._model.piece_to_id(_SPACE))
        return [] if self._model.is_unknown(found) else [found]

    def token_bytes(self, token_id: int) -> bytes:
        """Return what a generated token adds to the answer; nothing for special ones."""
        if token_id in self._by_id or not 0 <= token_id < self._model.get_piece_size():
            return b""
        if self._model.is_control(token_id) or self._model.is_unknown(token_id):
            return b""
        return _piece_bytes(self._model.id_to_piece(token_id))


class JsonTokenizer:
    """`tokenizer.json`: of the Llama kind (`▁` for a space, `<0xAB>` for a byte), or byte-level."""

    def __init__(self, folder: Path, state: Mapping[str, Any]) -> None:
        self._config = read_config(folder / "tokenizer_config.json")
        self._byte_level = is_byte_level(state)
        self._model = fast_tokenizer(folder, state)
        bare = state if _begins_alike(state, self._config) else _without_prefix(state)
        self._bare = fast_tokenizer(folder, bare)
        for model in (self._model, self._bare):
            model.encode_special_tokens = True
            model.no_padding()
            model.no_truncation()
        added = state_tokens(state)
        self._added = {entry["content"]: entry["id"] for entry in added}
        self._special = {entry["id"] for entry in added if entry.get("special")}

    @property
    def bos_id(self) -> int | None:
        """Return the id that begins every prompt, if there is one."""
        if self._config.get("add_bos_token") is False:
            return None
        begin = self.special_id(token_text(self._config.get("bos_token")) or "<s>")
        if self._byte_level and not self._config.get("add_bos_token"):
            # Such a tokenizer may name a token for the beginning, and not put it there.
            return begin if begin in self._model.encode("").ids[:1] else None
        return begin

    @property
    def size(self) -> int:
        """Return the number of ids."""
        return int(self._model.get_vocab_size())

    def encode(self, text: str, *, continued: bool) -> list[int]:
        """Return the ids of a text; `continued` where a special token came right before it."""
        model = self._bare if continued else self._model
        return list(model.encode(text, add_special_tokens=False).ids)

    def encode_inside(self, text: str) -> list[int]:
        """Return the ids of a text that goes on with another; nothing is put before it."""
        return list(self._inside.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _inside(self) -> Any:
        """The tokenizer without its prefix; few need it, and its state is large."""
        from tokenizers import Tokenizer as Library

        inside = Library.from_str(json.dumps(_without_prefix(json.loads(self._bare.to_str()))))
        inside.encode_special_tokens = True
        return inside

    def special_id(self, token: str) -> int | None:
        """Return the id of a special token, None where the vocabulary has none."""
        return self._added.get(token)

    def lead(self, token: str) -> list[int]:  # noqa: ARG002 - the protocol's signature
        """Return nothing: the library splits special tokens off before it adds a space."""
        return []

    def token_bytes(self, token_id: int) -> bytes:
        """Return what a generated token adds to the answer; nothing for special ones."""
        piece = self._model.id_to_token(token_id)
        if piece is None or token_id in self._special:
            return b""
        if not self._byte_level:
            return _piece_bytes(piece)
        return piece.encode() if piece in self._added else piece_bytes(piece)


def _piece_bytes(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(_SPACE, " ").encode()


def _begins_alike(state: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Return whether text after a special token begins with a space as any other."""
    scheme = (state.get("pre_tokenizer") or {}).get("prepend_scheme")
    return config.get("legacy") is not False and scheme != "first"


def _without_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tokenizer that puts no space before a text."""
    bare = dict(state)
    steps = _steps(state.get("normalizer"))
    kept = [step for step in steps if step.get("type") != "Prepend"]
    bare["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    if (state.get("pre_tokenizer") or {}).get("type") == "Metaspace":
        bare["pre_tokenizer"] = {**state["pre_tokenizer"], "prepend_scheme": "never"}
    return bare


def _steps(normalizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if normalizer is None:
        return []
    inner = normalizer.get("normalizers")
    return list(inner) if isinstance(inner, list) else [normalizer]


def _named_bos(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return what is said to begin a prompt, None where nothing is.

    Files of 2023 write a token as an object, and some name `</s>` or an empty text, whose id is
    that of `<unk>`; models were trained with it. Source: transformers 4.37
    tokenization_utils_base.py (which file wins), models/llama/tokenization_llama.py.
    """
    newer = config.get("added_tokens_decoder")
    older = {} if newer else read_config(folder / "special_tokens_map.json")
    entry = older.get("bos_token", config.get("bos_token"))
    return None if entry is None else token_text(entry)
