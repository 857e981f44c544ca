"""One holder at a time, between threads and between processes."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

_LOOK_AGAIN_S = 0.1


class Stopped(Exception):  # noqa: N818 - not a failure: the work was called off
    """The work was called off while it waited or ran."""


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def exclusive(path: Path, stop: Event) -> Iterator[None]:
    """Hold the lock file at `path`; it goes away afterwards, and a killed holder lets go.

    Raises:
        Stopped: `stop` was set while another holder was at work.
    """
    descriptor = _locked(path, stop)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not remove an open file; the next holder reuses it
            path.unlink()
        os.close(descriptor)


def _locked(path: Path, stop: Event) -> int:
    while not stop.is_set():
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if _try_lock(descriptor) and _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)
        stop.wait(_LOOK_AGAIN_S)
    raise Stopped


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether the locked file is still the one at `path`: its last holder removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
