"""How large a JSON text may be, counted while it comes and before anything is parsed. Pure.

A parser makes an object for every value, so a text of brackets costs a hundred times its size. The
counts need no parser: escapes go, quotes then alternate, and what is left between strings is
counted by its brackets, commas and colons. Every step is one call over a whole piece, and what
loops in Python is bounded by the limits, so a piece of 64 KiB takes microseconds, and a hostile one
is refused with the first pieces.

Source: RFC 8259, sections 2 (structure), 7 (strings) and 8.1 (UTF-8).
"""

from dataclasses import dataclass

from llava_pack.format.errors import UsageError
from llava_pack.format.text import human_bytes

_BRACKETS = b"[]{}"
_NOT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_OPENING = b"[{"


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonLimits:
    """What a JSON text may hold.

    Attributes:
        size_bytes: of the whole text.
        outside_bytes: of everything that is not within a string: structure, numbers, spaces.
        values: objects, lists, members and elements together.
        depth: objects and lists within each other.
    """

    size_bytes: int
    outside_bytes: int = 1 << 20
    values: int = 20_000
    depth: int = 32


class TooLargeError(UsageError):
    """A body beyond a bound: 413."""


class NotJsonError(UsageError):
    """A body that no JSON text can be, as far as was looked: 400."""


class JsonCount:
    r"""Counts a JSON text piece by piece.

    Args:
        limits: what it may hold.

    >>> count = JsonCount(JsonLimits(size_bytes=100))
    >>> count.take(b'{"a": ["x", "[[[')
    >>> count.take(b'\\"]", 1]}')
    >>> count.values, count.depth
    (5, 0)
    """

    def __init__(self, limits: JsonLimits) -> None:
        self._limits = limits
        self._in_string = False
        self._half_escape = False
        self.size_bytes = 0
        """Bytes so far."""
        self.outside_bytes = 0
        """Those of them outside strings."""
        self.values = 0
        """Values so far, at least."""
        self.depth = 0
        """Objects and lists that are open."""

    def take(self, piece: bytes) -> None:
        """Count a piece.

        Raises:
            TooLargeError: the text goes beyond a limit.
            NotJsonError: it holds a NUL, as UTF-16 does and no JSON text may, or closes what was
                never opened.
        """
        limits = self._limits
        self.size_bytes += len(piece)
        if self.size_bytes > limits.size_bytes:
            raise too_large(limits.size_bytes)
        if b"\0" in piece:
            raise NotJsonError("the body is not JSON in UTF-8: it contains a NUL")
        piece = self._without_escapes(piece)
        quotes = piece.count(b'"')
        if quotes > 2 * limits.values:
            raise self._beyond("values", limits.values)
        if quotes or not self._in_string:
            self._count(self._outside(piece, quotes))

    def _without_escapes(self, piece: bytes) -> bytes:
        """Return a piece whose quotes all begin or end a string; a backslash at its end is kept."""
        if self._half_escape and piece:
            piece = piece[1:]  # what the backslash before it escapes
            self._half_escape = False
        if b"\\" not in piece:
            return piece
        piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        self._half_escape = piece.endswith(b"\\")
        return piece

    def _outside(self, piece: bytes, quotes: int) -> bytes:
        if not quotes:
            return piece
        first = int(self._in_string)
        self._in_string ^= bool(quotes % 2)
        return b"".join(piece.split(b'"')[first::2])

    def _count(self, outside: bytes) -> None:
        limits = self._limits
        self.outside_bytes += len(outside)
        self.values += sum(map(outside.count, (b"[", b"{", b",", b":")))
        if self.outside_bytes > limits.outside_bytes:
            raise self._beyond("bytes outside its strings", limits.outside_bytes)
        if self.values > limits.values:
            raise self._beyond("values", limits.values)
        brackets = outside.translate(None, _NOT_BRACKETS)
        if len(brackets) > 2 * limits.values:
            raise NotJsonError("the body is not JSON: it closes more brackets than it opens")
        for bracket in brackets:
            self.depth += 1 if bracket in _OPENING else -1
            if self.depth > limits.depth:
                raise self._beyond("levels", limits.depth)
            if self.depth < 0:
                raise NotJsonError("the body is not JSON: it closes more brackets than it opens")

    def _beyond(self, what: str, most: int) -> TooLargeError:
        return TooLargeError(f"the request is too large: its JSON has more than {most} {what}")


def too_large(most_bytes: int) -> TooLargeError:
    """Return the error for a body of too many bytes."""
    return TooLargeError(f"the request is too large: at most {human_bytes(most_bytes)} are allowed")
