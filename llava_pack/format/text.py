"""Text for people: its languages; from outside, no control or direction character reaches them."""

import re
import unicodedata
from collections import Counter
from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_LINE_BREAKS = frozenset("\u2028\u2029")
_SIZE = re.compile(r"\b(\d{4,}) (?:bytes|字节)", re.ASCII)
_BARE = re.compile(r"(?<![\w/.:=-])\d{4,}(?![\w/.=-]| bytes| 字节)", re.ASCII)


def visible(text: str, *, keep: str = "") -> str:
    r"""Return `text` with C0, C1, bidirectional and line-separator characters escaped.

    Args:
        text: any string, lone surrogates included.
        keep: characters that stay as they are, for example a newline in a model's answer.

    >>> visible("a\x1b[31mb")
    'a\\x1b[31mb'
    >>> visible("line\nnext", keep="\n")
    'line\nnext'
    """
    return "".join(c if c in keep or not _hidden(c) else _escaped(c) for c in text)


def human_bytes(size_bytes: float) -> str:
    """Return a size for people, in powers of ten.

    >>> human_bytes(13_518_798_848)
    '13.5 GB'
    >>> human_bytes(999_950), human_bytes(999_949)
    ('1.0 MB', '999.9 kB')
    """
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if round(size, 1) < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return ""  # not reached: the last unit always returns


def clock(seconds: float) -> str:
    """Return a time span for people: minutes and seconds, or hours and minutes, 99:59 at most.

    >>> clock(6.2), clock(245), clock(3725)
    ('0:06', '4:05', '1:02 h')
    """
    whole = round(min(max(seconds, 0), 359_940))
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole // 60 % 60:02d} h"


def readable(text: str) -> str:
    """Return a text with its sizes for people, but where two of them would look alike.

    >>> readable("expected at least 13518798848 bytes, got 9100000000 bytes")
    'expected at least 13.5 GB, got 9.1 GB'
    >>> readable("expected 3000000 bytes, got 3000004 bytes")
    'expected 3000000 bytes, got 3000004 bytes'
    >>> readable("expected at most 4096 bytes, got 5000")
    'expected at most 4096 bytes, got 5000'
    """
    return "; ".join(map(_readable, text.split("; ")))


def _readable(text: str) -> str:
    shown = {number: human_bytes(int(number)) for number in _SIZE.findall(text)}
    alike = Counter(shown.values())
    if _BARE.search(text):  # another number of the same unit, which stands without it
        return text
    return _SIZE.sub(lambda at: shown[at[1]] if alike[shown[at[1]]] == 1 else at[0], text)


def _hidden(char: str) -> bool:
    return char in _BIDI or char in _LINE_BREAKS or unicodedata.category(char) in {"Cc", "Cs"}


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
