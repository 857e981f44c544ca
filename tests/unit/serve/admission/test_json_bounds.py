"""JSON is counted before it is parsed: what the counts say, and what they refuse."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.serve.admission.json_bounds import (
    JsonCount,
    JsonLimits,
    NotJsonError,
    TooLargeError,
)
from tests.support.bombs import json_bombs

_LIMITS = JsonLimits(size_bytes=64 << 20)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=30,
)


def _counted(text: bytes, step: int = 1 << 16, limits: JsonLimits = _LIMITS) -> JsonCount:
    count = JsonCount(limits)
    _take_all(count, text, step)
    return count


def _take_all(count: JsonCount, text: bytes, step: int = 1 << 16) -> None:
    for at in range(0, max(1, len(text)), step):
        count.take(text[at : at + step])


def _structure(value: Any) -> int:
    """Return the brackets, commas and colons of a value, by walking through it."""
    if isinstance(value, dict):
        inner = sum(map(_structure, value.values()))
        return 1 + len(value) + max(0, len(value) - 1) + inner
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(_structure, value))
    return 0


@given(_VALUES, st.integers(1, 9), st.booleans())
def test_the_count_is_the_parsers_however_it_is_cut(value: Any, step: int, plain: bool) -> None:  # noqa: FBT001
    text = json.dumps(value, ensure_ascii=plain).encode()
    count = _counted(text, step)
    assert (count.values, count.depth, count.size_bytes) == (_structure(value), 0, len(text))


@given(st.text(alphabet='"\\[]{},:a', max_size=40), st.integers(1, 5))
def test_nothing_within_a_string_counts(text: str, step: int) -> None:
    assert _counted(json.dumps([text]).encode(), step).values == 1


@pytest.mark.parametrize(
    ("limits", "text", "message"),
    [
        (JsonLimits(size_bytes=9), b" " * 10, "at most 9 B are allowed"),
        (JsonLimits(size_bytes=99, values=3), b"[1,2,3,4]", "its JSON has more than 3 values"),
        (JsonLimits(size_bytes=99, values=3), b'"a"' * 4, "its JSON has more than 3 values"),
        (JsonLimits(size_bytes=99, depth=2), b"[[[", "its JSON has more than 2 levels"),
        (
            JsonLimits(size_bytes=99, outside_bytes=3),
            b"1234",
            "more than 3 bytes outside its strings",
        ),
    ],
)
def test_each_bound_is_told(limits: JsonLimits, text: bytes, message: str) -> None:
    with pytest.raises(TooLargeError, match=message):
        _counted(text, limits=limits)


@pytest.mark.parametrize("text", ["[[]]".encode("utf-16"), "[1]".encode("utf-32-le"), b"]", b"{}]"])
def test_what_no_json_is_is_told(text: bytes) -> None:
    with pytest.raises(NotJsonError, match="the body is not JSON"):
        _counted(text)


def test_a_large_picture_is_no_structure() -> None:
    picture = b'{"url":"data:image/png;base64,' + b"A" * (20 << 20) + b'"}'
    count = _counted(picture)
    assert (count.values, count.outside_bytes) == (2, 3)


def test_every_bomb_is_refused_with_its_first_megabytes_at_most() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    for name, body in json_bombs(random.Random(seed)):
        if name in {"half a string", "unended"}:
            continue  # little, and for the parser to refuse
        count = JsonCount(_LIMITS)
        with pytest.raises((TooLargeError, NotJsonError)):
            _take_all(count, body)
        assert count.size_bytes <= 3 << 20, name
