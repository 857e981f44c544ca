"""What a script prints, told from what ssh, sshd and a login shell print around it."""

import secrets
from collections.abc import Callable, Mapping
from typing import BinaryIO, Literal

STDOUT: Literal[1] = 1
STDERR: Literal[2] = 2
Stream = Literal[1, 2]
_TAIL_BYTES = 4096


def bootstrap(size_bytes: int) -> str:
    """Return the line for a login shell, any, that starts so many bytes of sh from its stdin."""
    return f"exec sh -c 'eval \"$(dd bs=1 count={size_bytes} 2>/dev/null)\"'"


def new_nonce() -> str:
    """Return a word that nobody else prints."""
    return secrets.token_hex(16)


class Marked:
    """What a stream holds between two marks: first what a login shell may print, then a script.

    Args:
        stream: with `read1`.
        nonce: that no one else prints.
        last: whether there is a mark at the end, with a number; else the end is the stream's.
        say: told each line before the first mark, as it comes.
    """

    def __init__(
        self,
        stream: BinaryIO,
        nonce: str,
        *,
        last: bool,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._stream = stream
        self._say = say
        self._told = 0
        self._begin = f"{nonce} begin\n".encode()
        self._end = f"{nonce} end ".encode()
        self._last = last
        self._held = b""
        self.begun = False
        self.before = b""
        """What came before the first mark."""
        self.code: int | None = None
        """The number of the last mark, once it was read."""
        self.tail = b""
        """The last that was between the marks."""

    def read(self) -> bytes:
        """Return the next bytes between the marks, none at the end."""
        while self.code is None:
            data: bytes = self._stream.read1(1 << 16)  # type: ignore[attr-defined]
            self._held += data
            if not self.begun:
                self._find_begin()
            if self.begun and (ready := self._ready(ended=not data)):
                self.tail = (self.tail + ready)[-_TAIL_BYTES:]
                return ready
            if not data:
                self.before += b"" if self.begun else self._held
                self._stream.close()
                return b""
        return b""

    def _find_begin(self) -> None:
        before, mark, after = self._held.partition(self._begin)
        if mark:
            self.begun, self.before, self._held = True, before, after
        self._tell(before)

    def _tell(self, before: bytes) -> None:
        whole = before.rfind(b"\n") + 1
        if self._say is not None and whole > self._told:
            for line in before[self._told : whole].splitlines():
                self._say(line.decode("utf-8", "replace"))
            self._told = whole

    def _ready(self, *, ended: bool) -> bytes:
        """Return what certainly belongs to the script, and hold the rest back."""
        if not self._last or ended:
            ready, self._held = self._held, b""
            return ready
        ready, mark, after = self._held.partition(self._end)
        if mark and b"\n" in after:
            self.code, self._held = int(after.split(b"\n")[0]), b""
            return ready
        if mark:
            self._held = mark + after
            return ready
        keep = next(n for n in range(len(self._end) - 1, -1, -1) if self._ends_with(n))
        cut = len(self._held) - keep
        ready, self._held = self._held[:cut], self._held[cut:]
        return ready

    def _ends_with(self, count: int) -> bool:
        return self._held.endswith(self._end[:count])


def told_by(streams: Mapping[Stream, Marked]) -> str:
    """Return what ssh, sshd or a login shell printed around a script that did not end well."""
    parts = (streams[1].before, streams[2].before, streams[2].tail)
    return b"".join(parts).decode("utf-8", "replace")
