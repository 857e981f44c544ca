"""One installer at a time, and what the last one was doing when it was killed."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llava_pack.format import canonical, files
from llava_pack.format.errors import InstallError, PackError
from llava_pack.target import disk, ownership

NAME = "journal.json"
_MAX_BYTES = 1024 * 1024


@contextmanager
def locked(prefix: Path) -> Iterator[None]:
    """Hold the lock of a prefix; what is written meanwhile, others may read and never write.

    Raises:
        InstallError: another installer holds it.
        PreflightError: another account could change what is under the prefix.
    """
    ownership.check_prefix(prefix)
    mask = os.umask(0o022)
    descriptor = None
    try:
        prefix.mkdir(parents=True, exist_ok=True)
        ownership.check_prefix(prefix)  # in a sticky folder it could have been made meanwhile
        descriptor = ownership.opened(prefix / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InstallError(
                "another install, revert or removal is running under this prefix",
                subject=str(prefix),
                hint="wait until it has finished, then run the same command again",
            ) from error
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
        os.umask(mask)


def record(prefix: Path, step: str, **facts: Any) -> None:
    """Write the step that begins now, with what a later run needs to go on."""
    files.write(prefix / NAME, canonical.dumps({"step": step, **facts}), 0o600)


def unfinished(prefix: Path) -> dict[str, Any]:
    """Return what was being done when the last run ended early, nothing where it did not."""
    with suppress(FileNotFoundError, PackError):
        value = canonical.loads((prefix / NAME).read_bytes(), max_bytes=_MAX_BYTES)
        return value if isinstance(value, dict) else {}
    return {}


def close(prefix: Path) -> None:
    """Say that nothing is being done."""
    (prefix / NAME).unlink(missing_ok=True)


def clear_bootstraps(prefix: Path) -> None:
    """Remove the private folders of install.sh runs that are no more."""
    for folder in prefix.glob(".bootstrap.*.*"):
        if not Path("/proc", folder.name.split(".")[2]).exists():
            disk.remove_tree(folder)
