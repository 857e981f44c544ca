"""Files that are replaced as a whole: written beside, flushed, renamed.

Whoever reads one sees what was there before or what is there after, even if the writer was killed.
"""

import errno
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from glob import escape
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The disk is full, or a quota is used up."""

UNFOLLOWED: int = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY"))
"""Flags to open what may be a link, a FIFO or a terminal: none is followed, nor waited for.

Windows has none of them, and no such thing that an ordinary account could make.
"""

if sys.platform == "win32":
    from llava_pack.format.windows import drop, held, link, move, protect, sync
else:
    import fcntl

    def held(stream: BinaryIO) -> bool:
        """Lock a new file; False where it was taken for a leftover meanwhile."""
        with suppress(OSError):  # a file system without locks: no leftover is found there
            fcntl.flock(stream, fcntl.LOCK_EX)
        return os.fstat(stream.fileno()).st_nlink > 0

    def drop(left: Path) -> None:
        """Remove a file that no writer holds; a link, a FIFO or a device is somebody else's."""
        descriptor = os.open(left, os.O_RDONLY | UNFOLLOWED)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
        finally:
            os.close(descriptor)

    def link(source: Path, target: Path) -> None:
        """Give a file a second name."""
        target.hardlink_to(source)

    def move(source: Path, target: Path) -> None:
        """Rename a file or folder, in the place of a file that is there."""
        source.replace(target)

    def protect(path: Path) -> None:
        """Let nobody write to a finished file."""
        path.chmod(0o444)

    def sync(path: Path) -> None:
        """Flush one file or folder."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_BESIDE = re.compile(r"\..+\.[0-9a-f]{8}\.new")


def write(path: Path, data: bytes, mode: int | None = None, *, durable: bool = True) -> None:
    """Replace a file by `data`.

    Args:
        path: its folder exists.
        data: all of it.
        mode: exactly this; None for what the umask leaves of 0666.
        durable: it also survives a power cut from now on.

    Raises:
        OSError: it cannot be written. What was there is whole, and nothing is left beside it.
    """
    with replacing(path, mode, durable=durable) as stream:
        stream.write(data)


@contextmanager
def replacing(path: Path, mode: int | None = None, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place when the block ends well.

    Each writer has a file of its own, and holds flock(2) on it; a duplicate of its descriptor keeps
    that lock. What is beside `path` without one was left by a writer that was killed: it goes.

    Raises:
        OSError: as `write`.
    """
    clear(path)
    stream = _opened_beside(path, mode)
    beside = Path(stream.name)
    try:
        with stream:
            if mode is not None and sys.platform != "win32":
                os.fchmod(stream.fileno(), mode)
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
            if sys.platform != "win32":
                move(beside, path)  # under its lock
        if sys.platform == "win32":  # an open file cannot be renamed there
            move(beside, path)
    finally:
        with suppress(OSError):
            beside.unlink()
    if durable:
        sync(path.parent)


def is_leftover(path: str) -> bool:
    """Say whether a name is one that a writer gives a file until it is complete.

    >>> is_leftover("model/.a.safetensors.01234567.new")
    True
    """
    return _BESIDE.fullmatch(path.rpartition("/")[2]) is not None


def clear(path: Path) -> None:
    """Remove what writers of a file left beside it that were killed."""
    own = re.compile(rf"\.{re.escape(path.name)}(\.[0-9a-f]{{8}})?\.new")
    for left in path.parent.glob(f".{escape(path.name)}*.new"):
        if own.fullmatch(left.name):
            with suppress(OSError):
                drop(left)


def _opened_beside(path: Path, mode: int | None) -> BinaryIO:
    """Return a new file in the same folder that no other process has, or takes for a leftover."""
    opener = None if mode is None else partial(os.open, mode=0o600)
    while True:
        beside = path.with_name(f".{path.name}.{token_hex(4)}.new")
        stream: BinaryIO = open(beside, "xb", opener=opener)  # noqa: SIM115 - it is returned
        if held(stream):
            return stream
        stream.close()
