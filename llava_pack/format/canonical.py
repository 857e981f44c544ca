"""Canonical JSON: one value has one encoding, and a reader that accepts no ambiguity."""

import json
import math
from typing import Any

from llava_pack.format.errors import IntegrityError

MAX_DEPTH = 64


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
            nested deeper than `MAX_DEPTH`, or text that is not Unicode.
    """
    if len(data) > max_bytes:
        raise IntegrityError(f"JSON is too large, expected at most {max_bytes} bytes")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_finite,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise IntegrityError(f"not JSON: {reason}") from error
    _check_shape(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} twice in one object")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"number {text} is not finite")
    return number


def _check_shape(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str) and not item.isascii():
                _check_text(item)
        if not below:
            return
        level = below
    raise IntegrityError(f"JSON is nested too deep, expected at most {MAX_DEPTH} levels")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise IntegrityError("JSON text holds a lone surrogate") from error
