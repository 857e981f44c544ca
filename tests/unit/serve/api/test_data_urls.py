"""Pictures as text: every way in which clients write base64 comes back as the same bytes."""

import base64
import textwrap
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.format.errors import UsageError
from llava_pack.serve.api.data_urls import data_bytes


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


_WRITTEN: dict[str, Callable[[bytes], str]] = {
    "as it should be": _text,
    "for URLs": lambda data: base64.urlsafe_b64encode(data).decode(),
    "no padding": lambda data: _text(data).rstrip("="),
    "for URLs, no padding": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "lines of MIME": lambda data: base64.encodebytes(data).decode(),
    "lines of Windows": lambda data: "\r\n".join(textwrap.wrap(_text(data), 64)) + "\r\n",
    "indented lines": lambda data: "\n\t".join(textwrap.wrap(_text(data), 76)),
    "percent-encoded": lambda data: quote(_text(data), safe=""),
    "spaces for plus": lambda data: _text(data).replace("+", " "),
}
_HEADS = (
    "data:image/png;base64,",
    "DATA:image/PNG;BASE64,",
    "data:;base64,",
    "data:image;base64,",
    "data:image/*;base64,",
    "data:application/octet-stream;base64,",
    "data:image/jpeg;name=a b.jpg;charset=utf-8;base64,",
    "data:image/svg+xml;base64,",
    " data:image/png; base64, ",
)


@pytest.mark.parametrize("way", _WRITTEN)
@given(data=st.binary(max_size=300).map(lambda data: b"\x89" + data))
def test_every_way_to_write_base64_comes_back(way: str, data: bytes) -> None:
    """No picture begins with what would be a `+`."""
    assert data_bytes(f"data:image/png;base64,{_WRITTEN[way](data)}", 301) == data


@given(data=st.binary(min_size=58, max_size=300))
def test_lines_whose_ends_became_spaces_are_no_lost_plus(data: bytes) -> None:
    text = " ".join(textwrap.wrap(_text(data), 76))
    assert data_bytes(f"data:image/png;base64,{text}", 300) == data


@pytest.mark.parametrize("head", _HEADS)
def test_the_head_may_vary(head: str) -> None:
    assert data_bytes(f"{head}aGVsbG8=", 10) == b"hello"


@pytest.mark.parametrize("begin", [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n", b"GIF89a", b"RIFF"])
def test_base64_may_come_alone(begin: bytes) -> None:
    data = begin + bytes(range(40))
    assert data_bytes(_text(data), 100) == data
    assert data_bytes(base64.encodebytes(data).decode(), 100) == data


@pytest.mark.parametrize("text", ["a", "aGk=aGk=", "ä", "aG!k"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not valid base64"):
        data_bytes(f"data:image/png;base64,{text}", 100)


@pytest.mark.parametrize("way", _WRITTEN)
def test_the_size_is_known_before_it_is_decoded(way: str) -> None:
    assert len(data_bytes(f"data:;base64,{_WRITTEN[way](bytes(99))}", 99)) == 99
    with pytest.raises(UsageError, match="too large: 100 bytes, at most 99 bytes are allowed"):
        data_bytes(f"data:;base64,{_WRITTEN[way](bytes(100))}", 99)


def test_blanks_beyond_reason_are_refused_as_they_are() -> None:
    with pytest.raises(UsageError, match="too large"):
        data_bytes("data:;base64,aGk=" + "\n" * 1000, 100)
