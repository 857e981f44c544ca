"""A sentencepiece `tokenizer.model`, read without sentencepiece or protobuf.

Source: google/sentencepiece src/sentencepiece_model.proto (field numbers, defaults);
protobuf encoding guide (wire types).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from llava_pack.format.errors import CheckpointError

MAX_MODEL_BYTES = 64 << 20
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BPE = 2


class PieceType(IntEnum):
    """What a piece of the vocabulary is for."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary; its id is its place."""

    text: str
    score: float
    type: PieceType


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencepieceModel:
    """A byte-pair vocabulary and how text is prepared for it."""

    pieces: tuple[Piece, ...]
    byte_fallback: bool
    bos_id: int
    eos_id: int
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool


def parse_sentencepiece(data: bytes, *, subject: str = "tokenizer.model") -> SentencepieceModel:
    """Return the vocabulary of a Llama-style model.

    Raises:
        CheckpointError: the file is damaged, or of a kind that no LLaVA uses (unigram, a Unicode
            normaliser, spaces as suffixes).
    """
    if len(data) > MAX_MODEL_BYTES:
        raise CheckpointError(
            f"has {len(data)} bytes, expected at most {MAX_MODEL_BYTES}", subject=subject
        )
    if data.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            "this is a Git LFS pointer, not the tokenizer itself",
            subject=subject,
            hint="run `git lfs pull` in that folder, or name the Hub repository as the source",
        )
    try:
        fields = list(_fields(data))
        pieces = tuple(_piece(_bytes(value)) for number, value in fields if number == 1)
        trainer = _table(fields, 2)
        normalizer = _table(fields, 3)
    except (ValueError, IndexError, struct.error) as error:
        raise CheckpointError(
            f"not a sentencepiece model, or a damaged one ({error})",
            subject=subject,
            hint="download it again",
        ) from error
    _refuse_other_kinds(trainer, normalizer, pieces, subject)
    return SentencepieceModel(
        pieces=pieces,
        byte_fallback=bool(trainer.get(35, 0)),
        bos_id=_signed(trainer.get(41, 1)),
        eos_id=_signed(trainer.get(42, 2)),
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
    )


def _refuse_other_kinds(
    trainer: dict[int, int | bytes],
    normalizer: dict[int, int | bytes],
    pieces: tuple[Piece, ...],
    subject: str,
) -> None:
    types = [piece.type for piece in pieces]
    reasons = [
        (not pieces, "it has no pieces"),
        (trainer.get(3, 1) != _BPE, "it is not a BPE model"),
        (bool(trainer.get(24, 0)), "it treats spaces as suffixes"),
        (bool(normalizer.get(2, b"")), "it normalises Unicode"),
        (not normalizer.get(5, 1), "it does not escape spaces"),
        (types.count(PieceType.UNKNOWN) != 1, "it has no single unknown piece"),
        (PieceType.UNUSED in types, "it has unused pieces"),
        (len({piece.text for piece in pieces}) != len(pieces), "a piece appears twice"),
    ]
    found = [reason for applies, reason in reasons if applies]
    if found:
        raise CheckpointError(
            f"not a Llama tokenizer: {', '.join(found)}",
            subject=subject,
            hint="put the publisher's tokenizer.json beside it",
        )


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    score = fields.get(2, b"\0\0\0\0")
    (number,) = struct.unpack("<f", _bytes(score))
    kind = fields.get(3, PieceType.NORMAL)
    if not isinstance(kind, int):
        raise ValueError("a piece without a type")  # noqa: TRY004
    return Piece(_bytes(fields.get(1, b"")).decode(), number, PieceType(kind))


def _table(fields: list[tuple[int, int | bytes]], number: int) -> dict[int, int | bytes]:
    """Return the merged fields of a message that may appear once."""
    table: dict[int, int | bytes] = {}
    for found, value in fields:
        if found == number:
            table.update(_fields(_bytes(value)))
    return table


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield field number and value: an int for a varint, bytes for anything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in {_FIXED32, _FIXED64}:
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"a field of {size} bytes at {at} is truncated")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"a number at byte {at} has no end")


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where text was expected")  # noqa: TRY004
    return value


def _signed(value: int | bytes) -> int:
    """Return an int32 field, whose negative values are written as 64 bits."""
    number = value if isinstance(value, int) else -1
    return number - (1 << 64) if number >> 63 else number
