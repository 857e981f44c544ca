"""Canonical JSON: one value has one encoding, and a reader that accepts no ambiguity."""

import json
import math
from typing import Any

from llava_pack.format.errors import IntegrityError

MAX_VALUES = 250_000
"""Values in one text, counted before it is parsed: what bounds the memory that it takes."""


def dumps(value: Any) -> bytes:
    r"""Return the one encoding of `value`: sorted keys, no spaces, UTF-8, one final LF.

    Raises:
        ValueError: the value holds NaN, an infinity or a lone surrogate.

    >>> dumps({"b": [1, True], "a": "é"})
    b'{"a":"\xc3\xa9","b":[1,true]}\n'
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode() + b"\n"


def loads(data: bytes, *, max_bytes: int) -> Any:
    """Read JSON that means the same to every reader.

    Args:
        data: UTF-8 text, canonical or not.
        max_bytes: more than this is refused before it is parsed.

    Raises:
        IntegrityError: too large, not JSON, a key twice in one object, NaN or an infinity,
            nested deeper than Python goes, or text that has no encoding (a lone surrogate).
    """
    if len(data) > max_bytes:
        raise IntegrityError(f"JSON is too large, expected at most {max_bytes} bytes")
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise IntegrityError(f"JSON is too large, expected at most {MAX_VALUES} values")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_finite,
            parse_float=_finite,
        )
        dumps(value)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"not JSON: {error}") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"duplicate key {twice!r} in an object")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"number {text} is not finite")
    return number
