"""One line of progress, pure: it fits the terminal's width and says nothing impossible."""

import unicodedata

from llava_pack.cli.language import translated
from llava_pack.format.text import clock, human_bytes, visible

_NAME_COLUMNS = 12
"""A name is not shortened below this while something else can be left out."""


def progress_line(
    what: str, done_bytes: int, total_bytes: int | None, rate: float, width: int | None = None
) -> str:
    """Return how far a phase is.

    Args:
        what: the phase in the person's language, with a name of any length in it.
        done_bytes: what came of it.
        total_bytes: what was expected; more may come. None where nobody knows.
        rate: bytes per second.
        width: columns that there are; None for as many as it takes.

    >>> progress_line("fetch x", 1_000_000, 4_000_000, 500_000.0)
    'fetch x: 1.0 MB of 4.0 MB (25 %), 500.0 kB/s, 0:06 left'
    >>> progress_line("fetch model-00001-of-00002.safetensors", 1_000_000, 4_000_000, 5e5, 42)
    'fetch …ensors: 25 %, 500.0 kB/s, 0:06 left'
    """
    what = visible(what)
    forms = _forms(max(done_bytes, 0), total_bytes, max(rate, 0.0))
    if width is None:
        return f"{what}: {forms[0]}"
    least = min(columns(what), _NAME_COLUMNS) + len(": ")
    rest = next((form for form in forms if least + columns(form) <= width), "")
    if not rest:
        return shortened(forms[-1], width)
    return f"{shortened(what, width - columns(rest) - len(': '))}: {rest}"


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes: wide characters take two.

    Source: Unicode Standard Annex 11, "East Asian Width".

    >>> columns("abc"), columns("离线包"), columns("e\u0301")
    (3, 6, 1)
    """
    return sum(map(_width, text))


def padded(text: str, width: int) -> str:
    """Return a text with spaces up to so many columns: behind it, or before it if it is negative.

    >>> padded("大小", 6) + "|", padded("4 B", -6)
    ('大小  |', '   4 B')
    """
    space = " " * (abs(width) - columns(text))
    return text + space if width > 0 else space + text


def _width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


def shortened(text: str, width: int) -> str:
    """Return a text in at most that many columns, without its middle where it is longer.

    >>> shortened("model-00001-of-00002", 9), shortened("离线包.tar", 6), shortened("abc", 3)
    ('mode…0002', '离…tar', 'abc')
    """
    if columns(text) <= width:
        return text
    head = _fitting(text, width // 2)
    tail = _fitting(text[::-1], width - 1 - columns(head))[::-1]
    return f"{head}…{tail}" if width > 0 else ""


def _fitting(text: str, width: int) -> str:
    """Return as much of a text's beginning as fits."""
    kept = ""
    for char in text:
        if columns(kept + char) > width:
            break
        kept += char
    return kept


def _forms(done: int, total: int | None, rate: float) -> tuple[str, ...]:
    """Return what there is to say, from all of it to the least."""
    speed = f"{human_bytes(rate)}/s"
    if not total:
        return (f"{human_bytes(done)}, {speed}", human_bytes(done))
    total = max(total, done)
    percent = f"{100 * done // total} %"
    amount = translated(f"{human_bytes(done)} of {human_bytes(total)} ({percent})")
    if not rate:
        return (amount, percent)
    left = translated(f"{clock((total - done) / rate)} left")
    return (
        f"{amount}, {speed}, {left}",
        f"{percent}, {speed}, {left}",
        f"{percent}, {left}",
        percent,
    )
