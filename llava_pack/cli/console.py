"""The only place of the laptop side that prints: data on stdout, talk on stderr."""

import codecs
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO, cast

from llava_pack.cli.language import own_phrase, translated
from llava_pack.cli.progress_line import columns, progress_line
from llava_pack.format.errors import PackError
from llava_pack.format.text import human_bytes, readable, visible

JSON_SCHEMA = 1
_STAND_IN = "llava-pack-stand-in"
_PLAIN = {"✓": "+", "✗": "x", "…": "...", "→": "->"}
"""For the signs of our own that not every code page has: 936 has no check mark."""
_PLAIN_EVERY_S = 5.0
_BAR_EVERY_S = 0.1
_USUAL_COLUMNS = 80


def settle() -> None:
    """Have stdout and stderr take any text, whatever code page they are in: called once.

    On Windows a pipe has the code page of the language, and the console may be an old one.
    """
    codecs.register_error(_STAND_IN, _stand_in)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_STAND_IN)
    if sys.platform == "win32":
        from llava_pack.cli.windows_console import takes_escapes

        if not takes_escapes():
            os.environ["TERM"] = "dumb"


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for letters that an encoding has not, and where to go on.

    >>> codecs.register_error("stand-in", _stand_in)
    >>> "✓ …".encode("ascii", "stand-in"), "✓ …".encode("gbk", "stand-in").decode("gbk")
    (b'+ ...', '+ …')
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    shown = [_PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in letters]
    return "".join(shown), error.end


def data(text: str) -> None:
    """Print one line of data for a person on stdout, shown as text."""
    verbatim(_told(text))


def verbatim(text: str) -> None:
    """Print lines on stdout that are not ours, or that a program reads: in no other language."""
    print(visible(text, keep="\n\t"), file=sys.stdout, flush=True)


def stream(text: str) -> None:
    """Print a piece of a model's answer on stdout without ending the line."""
    print(visible(text, keep="\n\t"), end="", file=sys.stdout, flush=True)


def document(kind: str, fields: Mapping[str, Any]) -> None:
    """Print one JSON object on one line of stdout, with its schema and kind."""
    body = {"schema": JSON_SCHEMA, "kind": kind, **fields}
    print(json.dumps(body, ensure_ascii=True), file=sys.stdout, flush=True)


def say(text: str = "") -> None:
    """Print one line of talk on stderr."""
    talk(_told(text))


def talk(text: str) -> None:
    """Print talk that is in the person's language already."""
    print(visible(text, keep="\n\t"), file=sys.stderr, flush=True)


def failure(error: PackError, *, as_json: bool = False) -> None:
    """Show an error: what is wrong on one line, the way out on the next."""
    if as_json:
        document("error", error.facts())
    subject = f"{own_phrase(error.subject)}: " if error.subject else ""
    _labelled("error", "31;1", subject + _told(error.message))
    if error.hint:
        _labelled("hint", "36", _told(error.hint))


def warning(text: str) -> None:
    """Show what a person should know of an answer that was given all the same."""
    _labelled("warning", "33", _told(text))


def _told(text: str) -> str:
    """Return a text of ours as a person reads it: in their language, sizes in their units."""
    return readable(translated(text))


def _labelled(label: str, colour: str, text: str) -> None:
    """Print a coloured label and the text, whose lines stay lines."""
    shown = visible(text, keep="\n")
    print(f"{_paint(translated(label), colour)}: {shown}", file=sys.stderr, flush=True)


def mark(level: str) -> str:
    """Return ✓, ! or ✗ for `ok`, `warn` or `fail`.

    >>> mark("warn")
    '!'
    """
    return {"ok": "✓", "warn": "!", "fail": "✗"}[level]


@contextmanager
def outliving() -> Iterator[None]:
    """Have the block go on when what it prints to is gone: a closed terminal, an ended pipe."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", Outliving(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class Outliving(io.TextIOBase):
    """A stream that goes on into nothing once it cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, which is lost where there is nobody for it."""
        try:
            return self._stream.write(text)
        except OSError:
            self._let_go()
            return len(text)

    def flush(self) -> None:
        """Hand on what is buffered."""
        try:
            self._stream.flush()
        except OSError:
            self._let_go()

    def isatty(self) -> bool:
        """Say whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._stream.fileno()

    def _let_go(self) -> None:
        """Put /dev/null in its place, or what is buffered would fail again at the very end."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


def progress() -> "ConsoleProgress":
    """Return the progress reporter for stderr: a bar on a terminal, plain lines elsewhere."""
    return ConsoleProgress(sys.stderr)


class ConsoleProgress:
    """Phases with bytes/s and time left; one line that is redrawn, or a line now and then."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._bar = out.isatty() and os.environ.get("TERM") != "dumb"
        self._lock = threading.Lock()
        self._what = ""
        self._total: int | None = None
        self._done = 0
        self._drawn = 0
        self._began = self._shown = 0.0

    def start(self, what: str, total_bytes: int | None) -> None:
        """Begin a phase."""
        with self._lock:
            self._what, self._total, self._done = _phase(what), total_bytes, 0
            self._began = self._shown = self._clock()
            if self._bar:
                self._draw()
            else:
                amount = f" ({human_bytes(total_bytes)})" if total_bytes else ""
                self._line(f"{self._what}{amount} …")

    def advance(self, size_bytes: int) -> None:
        """Count bytes; redraw at most ten times a second."""
        with self._lock:
            self._done += size_bytes
            now = self._clock()
            if now - self._shown >= (_BAR_EVERY_S if self._bar else _PLAIN_EVERY_S):
                self._shown = now
                self._draw() if self._bar else self._line(self._status())

    def note(self, text: str) -> None:
        """Say one line without spoiling the bar."""
        with self._lock:
            if self._bar:
                self._out.write(self._wiped(self._columns()))
                self._drawn = 0
            self._line(_told(text))

    def done(self) -> None:
        """End the phase with what it took."""
        with self._lock:
            took_s = max(self._clock() - self._began, 1e-9)
            speed = human_bytes(self._done / took_s)
            amount = translated(f"{human_bytes(self._done)} at {speed}/s") if self._done else ""
            if self._bar:
                self._out.write(self._wiped(self._columns()))
                self._drawn = 0
            self._line(f"{self._what}: {took_s:.1f} s" + (amount and f"  {amount}"))

    def _status(self, width: int | None = None) -> str:
        rate = self._done / max(self._clock() - self._began, 1e-9)
        return progress_line(self._what, self._done, self._total, rate, width)

    def _draw(self) -> None:
        width = self._columns()
        line = visible(self._status(width))
        self._out.write(self._wiped(width) + line)
        self._out.flush()
        self._drawn = columns(line)

    def _wiped(self, width: int) -> str:
        """Return what removes the bar, which a terminal that became narrower has broken up."""
        above = max(self._drawn - 1, 0) // (width + 1)
        return "\r" + (f"\x1b[{above}A\x1b[J" if above else "\x1b[K")

    def _columns(self) -> int:
        """Return the columns to draw in: all but the last one, at which terminals wrap."""
        try:
            width = os.get_terminal_size(self._out.fileno()).columns
        except (OSError, ValueError):  # no terminal after all, or closed
            width = 0
        return max((width or _USUAL_COLUMNS) - 1, 1)

    def _line(self, text: str) -> None:
        self._out.write(visible(text) + "\n")
        self._out.flush()


def _phase(what: str) -> str:
    """Return a phase in the person's language, perhaps behind the name of a model."""
    name, colon, detail = what.partition(": ")
    return f"{name}: {translated(detail)}" if colon else translated(what)


def _paint(text: str, code: str) -> str:
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" or not sys.stderr.isatty()
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"
