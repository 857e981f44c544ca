"""Small sentencepiece models, made without sentencepiece.

Source: google/sentencepiece src/sentencepiece_model.proto.
"""

import struct
from collections.abc import Iterable

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_WORDS = (
    "▁the ▁a ▁what ▁is ▁in ▁this ▁picture ▁red ▁blue ▁star ▁circle ▁USER ▁ASSISTANT : . ? ▁▁ ▁▁▁▁"
)


def varint(value: int) -> bytes:
    """Return a number in base 128, least significant first."""
    out = bytearray()
    value &= (1 << 64) - 1
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, value: int | bytes) -> bytes:
    """Return one field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text: str, score: float, kind: int) -> bytes:
    """Return one piece of a model."""
    score_field = varint(2 << 3 | 5) + struct.pack("<f", score)
    body = field(1, text.encode()) + score_field + field(3, kind)
    return field(1, body)


def tokenizer_model(
    pieces: Iterable[tuple[str, float, int]],
    *,
    model_type: int = 2,
    charsmap: bytes = b"",
    add_dummy_prefix: bool = True,
    remove_extra_whitespaces: bool = False,
) -> bytes:
    """Return a model of these pieces; type 2 is byte-pair encoding."""
    trainer = field(3, model_type) + field(35, 1)
    normalizer = (
        field(1, b"identity")
        + field(2, charsmap)
        + field(3, int(add_dummy_prefix))
        + field(4, int(remove_extra_whitespaces))
    )
    body = b"".join(piece(*one) for one in pieces)
    return body + field(2, trainer) + field(3, normalizer)


def tiny_pieces(size: int = 320) -> list[tuple[str, float, int]]:
    """Return a Llama-style vocabulary: three specials, 256 bytes, merges, characters.

    Args:
        size: how many pieces, at least 290; what the words do not fill is filled with characters.
    """
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    pieces += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    words = _WORDS.split(" ")
    characters = sorted({char for word in words for char in word})
    room = size - len(pieces) - len(characters)
    merges = list(dict.fromkeys(w[:n] for w in words for n in range(2, len(w) + 1)))[:room]
    texts = merges + characters
    filler = (chr(code) for code in range(0x4E00, 0x9FFF))
    texts += [next(filler) for _ in range(room - len(merges))]
    return pieces + [(text, -float(rank), NORMAL) for rank, text in enumerate(texts)]


def tiny_tokenizer_model(size: int = 320) -> bytes:
    """Return the sentencepiece model of `tiny_pieces`."""
    return tokenizer_model(tiny_pieces(size))
