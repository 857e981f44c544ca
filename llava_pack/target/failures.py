"""What a failure of the machine itself means: an exit code and what to do, never a traceback."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llava_pack.format.errors import InstallError, PackError, PreflightError, SpaceError, reason_of
from llava_pack.target import disk, generations

_CLOSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_AGAIN = "then run the same command again: it resumes where it stopped"
_FIXES = {
    errno.EMFILE: f"allow this account more open files (ulimit -n 1024), {_AGAIN}",
    errno.ENFILE: f"allow this machine more open files (sysctl fs.file-max), {_AGAIN}",
    errno.EIO: f"check dmesg: a disk is failing or missing; fix it, {_AGAIN}",
}


@contextmanager
def explained(prefix: Path) -> Iterator[None]:
    """Turn what the system refuses to do into the error that says so.

    Raises:
        SpaceError: a disk or a quota is full, or memory is.
        PreflightError: a place cannot be written.
        InstallError: anything else, as a disk that fails or too few open files.
    """
    try:
        with disk.room_on(prefix):
            yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _failure(error, prefix) from error


def _failure(error: OSError, prefix: Path) -> PackError:
    subject = str(error.filename or prefix)
    said = reason_of(error)
    if error.errno == errno.ENOMEM:
        return SpaceError(f"{said}", subject=subject, hint=f"free some memory, {_AGAIN}")
    if error.errno in _CLOSED:
        fix = "run it as the account that owns the prefix, on a disk that can be written"
        return PreflightError(f"cannot be written: {said}", subject=subject, hint=fix)
    fix = _FIXES.get(error.errno or 0, f"fix the cause, {_AGAIN}")
    return InstallError(f"{said}; {_active(prefix)}", subject=subject, hint=fix)


def _active(prefix: Path) -> str:
    """Return what is active, as far as that can be found out now."""
    with suppress(OSError):
        states = [generations.state(prefix, recipe) for recipe in generations.recipes(prefix)]
        return "; ".join(states) or "no generation is active"
    return "the active generation cannot be read either"
