"""What the disk of a Windows laptop asks of a program that writes files, for `format.files`.

No bundle holds a copy: what installs one runs on Linux.
"""

import ctypes
import errno
import os
import sys
import time
from pathlib import Path
from typing import BinaryIO

SYSTEM = {name: os.environ[name] for name in ("SYSTEMROOT", "TEMP") if name in os.environ}
"""What a program needs to start: without the first, Windows finds no library of its own."""
_ROOTS = (os.environ.get("SYSTEMROOT", r"C:\Windows"), os.environ.get("PROGRAMFILES", ""))
SEARCH_PATH = rf"{_ROOTS[0]}\System32\OpenSSH;{_ROOTS[1]}\Git\usr\bin"
"""Where Windows has ssh and ssh-keygen, and where openssl comes with Git, off the PATH."""
_PATH_LETTERS = 32768
_TRIES = 10
_FIRST_WAIT_S = 0.01


def held(_stream: BinaryIO) -> bool:
    """Return whether a new file is this writer's: it is, as nobody can remove an open one."""
    return True


def drop(left: Path) -> None:
    """Remove a file that no writer holds; that of a writer is open, and cannot be removed."""
    left.unlink()


def link(source: Path, target: Path) -> None:
    """Give a file a second name.

    Raises:
        OSError: it cannot be; a read-only file's second name could not be removed again.
    """
    if not os.access(source, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(source))
    target.hardlink_to(source)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder, in the place of a file that is there.

    A virus scanner or an indexer opens what was just written, and for that long nobody can rename
    it: 10 s at most.

    Raises:
        OSError: it cannot be renamed.
    """
    wait_s = _FIRST_WAIT_S
    for _ in range(_TRIES - 1):
        try:
            source.replace(target)
        except PermissionError:
            time.sleep(wait_s)
            wait_s *= 2
        else:
            return
    source.replace(target)


def protect(_path: Path) -> None:
    """Leave a file as it is: one that is read-only here could not be removed or replaced either."""


def sync(path: Path) -> None:
    """Flush one file, which takes a handle that may write; folders are flushed by the system."""
    if path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cluster_bytes(folder: Path) -> int:
    """Return in how many bytes the volume counts that a folder is on.

    Raises:
        OSError: it does not say.

    Source: Win32, `GetVolumePathNameW` and `GetDiskFreeSpaceW`.
    """
    if sys.platform != "win32":
        raise NotImplementedError
    library = ctypes.WinDLL("kernel32", use_last_error=True)
    root = ctypes.create_unicode_buffer(_PATH_LETTERS)
    sectors, size, free, total = (ctypes.c_ulong() for _ in range(4))
    told = map(ctypes.byref, (sectors, size, free, total))
    named = library.GetVolumePathNameW(str(folder), root, _PATH_LETTERS)
    if not (named and library.GetDiskFreeSpaceW(root, *told)):
        raise ctypes.WinError(ctypes.get_last_error())
    return sectors.value * size.value
