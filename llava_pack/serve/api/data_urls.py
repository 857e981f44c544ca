"""Pictures that come as text: data: URLs and base64, as strict as they need to be and no more.

Clients leave out the media type or write one that says nothing, break lines, use the alphabet for
URLs, lose the padding, and turn `+` into a space on their way through a form. What a picture is
says its own first bytes, and nothing else.

Source: RFC 2397 (data: URLs); RFC 4648 (base64, and its alphabet for URLs).
"""

import base64
import binascii
import re
import string

from llava_pack.engine.inputs.picture_formats import NAMES
from llava_pack.format.errors import UsageError
from llava_pack.format.text import readable

EXPECTED = f"expected data:image/png;base64,… ({NAMES})"
_DATA = re.compile(r"\s*data:[^,;]{0,100}(?:;[^,;]{0,100}){0,10};\s*base64\s*,", re.IGNORECASE)
_BARE = re.compile(r"(?:/9j/|[A-Za-z0-9+\-_])[A-Za-z0-9+/\-_\s]{31}")
"""How base64 begins that no URL stands before; of what begins with `/`, a JPEG, and no path."""
_ALPHABET = (string.ascii_letters + string.digits + "+/=").encode()
_FOR_URLS = bytes.maketrans(b"-_", b"+/")
_BLANKS = b"\r\n\t\f\v"
_CODED = (
    (b"%2B", b"+"), (b"%2b", b"+"), (b"%2F", b"/"), (b"%2f", b"/"), (b"%3D", b"="), (b"%3d", b"="),
    (b"%0A", b""), (b"%0a", b""), (b"%0D", b""), (b"%0d", b""), (b"%20", b" "),
)  # fmt: skip
"""What percent-encoding does to base64; `unquote` would take a minute over a large text."""
_LINE = 60
"""A line of base64 has at least so many characters: 64 or 76, as a rule."""


def data_bytes(url: str, max_bytes: int) -> bytes:
    """Return what a data: URL holds, or base64 alone.

    Args:
        url: as it came in the request.
        max_bytes: the most that it may hold, checked before it is decoded.

    Raises:
        UsageError: another kind of URL, too much, or not base64.

    >>> data_bytes("data:image/png;base64,aGk=", 10), data_bytes("data:;base64,aGk", 10)
    (b'hi', b'hi')
    """
    head = _DATA.match(url)
    if head is None and not _BARE.match(url):
        raise UsageError(f"pictures are not fetched: {EXPECTED}, got {_kind(url)}")
    text = url if head is None else url[head.end() :]
    if len(text) > max_bytes * 4:  # three times what it takes: whoever wraps every line can have it
        raise _too_large(len(text) * 3 // 4, max_bytes)
    try:
        written = text.encode("ascii")
        if len(written) % 4 or written.translate(None, _ALPHABET):
            written = _mended(written)
        if (size := len(written) * 3 // 4 - written[-2:].count(b"=")) > max_bytes:
            raise _too_large(size, max_bytes)
        return base64.b64decode(written, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"the picture is not valid base64: {EXPECTED}") from error


def _too_large(size: int, max_bytes: int) -> UsageError:
    most, got = f"{max_bytes} bytes", f"{size} bytes"
    return UsageError(readable(f"the picture is too large: {got}, at most {most} are allowed"))


def _mended(text: bytes) -> bytes:
    r"""Return base64 as RFC 4648 writes it; as bytes, which is ten times as fast.

    >>> _mended(b"aG\nk"), _mended(b"_-8"), _mended(b"a b%3D")
    (b'aGk=', b'/+8=', b'a+b=')
    """
    for code, character in _CODED if b"%" in text else ():
        text = text.replace(code, character)
    text = text.translate(_FOR_URLS, _BLANKS).lstrip(b" ")
    if len(text) % 4:
        text = text.rstrip(b" ")
    if b" " in text:
        text = text.replace(b" ", b"" if _is_wrapped(text) else b"+")
    text = text.rstrip(b"=")
    return text + b"=" * (-len(text) % 4)


def _is_wrapped(text: bytes) -> bool:
    """Return whether the spaces of a text are ends of lines, and not each a `+` that was lost."""
    if text.count(b" ") * _LINE > len(text):
        return False
    *lines, last = text.split(b" ")
    width = len(lines[0])
    equal = width >= _LINE and width % 4 == 0 and all(len(line) == width for line in lines)
    return equal and len(last) <= width and (len(lines) > 1 or len(text) % 4 != 0)


def _kind(url: str) -> str:
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,20}(?=:)", url.strip())
    return f"a URL that begins with {scheme[0]}:" if scheme else "something else"
