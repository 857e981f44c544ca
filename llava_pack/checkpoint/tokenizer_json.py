"""A Llama tokenizer as `tokenizer.json`, which loads without sentencepiece and protobuf.

Each piece of text between special tokens gets the leading "▁" of its own, as LLaVA's code, which
tokenizes the pieces around a picture one by one, makes it.

Source: huggingface/tokenizers `tokenizer.json` (serialised pipeline); google/sentencepiece
src/bpe_model.cc (a pair is merged if its text is a piece, highest score first);
haotian-liu/LLaVA llava/mm_utils.py tokenizer_image_token (pieces); internlm/internlm2-chat-7b
tokenizer.model and tokenizer_config.json (pieces that are named later).
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from llava_pack.checkpoint.sentencepiece_model import (
    PieceType,
    SentencepieceModel,
    parse_sentencepiece,
)
from llava_pack.format.errors import CheckpointError

_SPACE = "▁"
_UNUSED = re.compile(r"\[UNUSED_TOKEN_\d+\]")
"""A piece that keeps a place in InternLM2's vocabulary, for a token that is named later."""
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def tokenizer_json(
    model_file: bytes, config: Mapping[str, Any], added: Mapping[str, int] | None = None
) -> bytes:
    """Return `tokenizer.json` for a `tokenizer.model`; the same input gives the same bytes.

    Args:
        model_file: the sentencepiece model.
        config: tokenizer_config.json; read are `add_bos_token`, `add_eos_token`, `bos_token`,
            `eos_token` and `added_tokens_decoder`.
        added: added_tokens.json of older checkpoints: text to id.

    Raises:
        CheckpointError: the model is damaged or of another kind, or an added token has no place.
    """
    model = _named(parse_sentencepiece(model_file), config)
    tokens = _added_tokens(model, config, added or {})
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "normalizer": _normalizer(model),
        "pre_tokenizer": None,
        "post_processor": _post_processor(model, config, tokens),
        "decoder": _decoder(model),
        "model": _bpe(model),
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _named(model: SentencepieceModel, config: Mapping[str, Any]) -> SentencepieceModel:
    """Return a model whose kept places have the names of the tokens that took them."""
    given = config.get("added_tokens_decoder")
    names = {
        int(key): str(value["content"])
        for key, value in (given if isinstance(given, Mapping) else {}).items()
        if str(key).isdecimal() and isinstance(value, Mapping) and "content" in value
    }
    pieces = tuple(
        replace(piece, text=names[number], type=PieceType.USER_DEFINED)
        if number in names and _UNUSED.fullmatch(piece.text)
        else piece
        for number, piece in enumerate(model.pieces)
    )
    return replace(model, pieces=pieces)


def _bpe(model: SentencepieceModel) -> dict[str, Any]:
    merges = list(_merges(model))
    spaced = any(" " in part for pair in merges for part in pair)
    unknown = next(piece.text for piece in model.pieces if piece.type is PieceType.UNKNOWN)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "vocab": {piece.text: number for number, piece in enumerate(model.pieces)},
        "merges": [list(pair) for pair in merges] if spaced else [" ".join(p) for p in merges],
    }


def _merges(model: SentencepieceModel) -> Iterator[tuple[str, str]]:
    """Yield every pair of pieces that makes a piece, best score of the whole first."""
    ids = {
        piece.text: number
        for number, piece in enumerate(model.pieces)
        if piece.type is PieceType.NORMAL
    }
    for text in sorted(ids, key=lambda text: (-model.pieces[ids[text]].score, ids[text])):
        splits = ((text[:at], text[at:]) for at in range(1, len(text)))
        pairs = [(left, right) for left, right in splits if left in ids and right in ids]
        yield from sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))


def _added_tokens(
    model: SentencepieceModel, config: Mapping[str, Any], added: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return special and added tokens by id; new ones follow the vocabulary without a gap."""
    tokens: dict[int, dict[str, Any]] = {}
    for number, piece in enumerate(model.pieces):
        if piece.type in {PieceType.UNKNOWN, PieceType.CONTROL}:
            tokens[number] = _token(number, piece.text, special=True)
        elif piece.type is PieceType.USER_DEFINED:
            tokens[number] = _token(number, piece.text, special=False)
    for text, number in added.items():
        tokens[number] = _token(number, text, special=True)
    for key, value in (config.get("added_tokens_decoder") or {}).items():
        if not str(key).isdecimal() or not isinstance(value, dict) or "content" not in value:
            raise CheckpointError(
                f"added token {key!r} has no text", subject="tokenizer_config.json"
            )
        token = _token(int(key), str(value["content"]), special=False)
        tokens[int(key)] = token | {flag: bool(value.get(flag, token[flag])) for flag in _FLAGS}
    _check_places(model, tokens)
    return [tokens[number] for number in sorted(tokens)]


def _check_places(model: SentencepieceModel, tokens: Mapping[int, Mapping[str, Any]]) -> None:
    expected = len(model.pieces)
    for number in sorted(tokens):
        text = tokens[number]["content"]
        if number < len(model.pieces):
            if model.pieces[number].text != text:
                raise CheckpointError(
                    f"added token {text!r} has id {number}, "
                    f"which is {model.pieces[number].text!r} in tokenizer.model",
                    subject="tokenizer_config.json",
                )
            continue
        if number != expected:
            raise CheckpointError(
                f"added token {text!r} has id {number}, expected {expected}",
                subject="tokenizer_config.json",
            )
        expected += 1


def _token(number: int, text: str, *, special: bool) -> dict[str, Any]:
    return {
        "id": number,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _normalizer(model: SentencepieceModel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    if model.remove_extra_whitespaces:
        steps.append(_replace({"Regex": "^ +| +$"}, ""))
        steps.append(_replace({"Regex": " {2,}"}, " "))
    if model.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": _SPACE})
    steps.append(_replace({"String": " "}, _SPACE))
    return {"type": "Sequence", "normalizers": steps}


def _decoder(model: SentencepieceModel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        _replace({"String": _SPACE}, " "),
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _post_processor(
    model: SentencepieceModel, config: Mapping[str, Any], tokens: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Return the template that puts `<s>` in front and, if asked, `</s>` behind."""
    ids = {piece.text: number for number, piece in enumerate(model.pieces)}
    ids |= {token["content"]: token["id"] for token in tokens}
    begin = _special("bos_token", model.bos_id, config, model)
    end = _special("eos_token", model.eos_id, config, model)
    used = {
        text: {"id": text, "ids": [ids[text]], "tokens": [text]}
        for text, wanted in (
            (begin, config.get("add_bos_token", True)),
            (end, config.get("add_eos_token", False)),
        )
        if wanted and text in ids
    }
    if not used:
        return None

    def around(name: str, kind: int) -> list[dict[str, Any]]:
        before = [begin] if begin in used else []
        after = [end] if end in used and config.get("add_eos_token", False) else []
        special = [{"SpecialToken": {"id": text, "type_id": kind}} for text in (*before, *after)]
        special.insert(len(before), {"Sequence": {"id": name, "type_id": kind}})
        return special

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": used,
    }


def _special(key: str, number: int, config: Mapping[str, Any], model: SentencepieceModel) -> str:
    """Return a special token's text: the configuration's, else the model's own."""
    value = config.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    if isinstance(value, str) and value:
        return value
    return model.pieces[number].text if 0 <= number < len(model.pieces) else ""
