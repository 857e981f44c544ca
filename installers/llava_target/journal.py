"""One installer at a time, and what the last one was doing when it was killed."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llava_pack.format import canonical
from llava_pack.format.errors import InstallError, PackError
from llava_target import disk

_MAX_BYTES = 64 * 1024
_BOOTSTRAP = re.compile(r"\.bootstrap\.(\d+)\..*")


@contextmanager
def locked(prefix: Path) -> Iterator[None]:
    """Hold the lock of a prefix.

    Raises:
        InstallError: another installer holds it.
    """
    prefix.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(prefix / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InstallError(
                "another install, revert or removal is running under this prefix",
                subject=str(prefix),
                hint="wait until it has ended, then run the same command again",
            ) from error
        yield
    finally:
        os.close(descriptor)


class Journal:
    """What is being done under a prefix, on disk before it is done."""

    def __init__(self, prefix: Path) -> None:
        self._path = prefix / "journal.json"

    def record(self, step: str, **facts: Any) -> None:
        """Write the step that begins now."""
        disk.write_file(self._path, canonical.dumps({"step": step, **facts}))

    def unfinished(self) -> dict[str, Any] | None:
        """Return what was being done when the last run ended early, None where it did not."""
        with suppress(FileNotFoundError, PackError):
            data = self._path.read_bytes()[: _MAX_BYTES + 1]
            value = canonical.loads(data, max_bytes=_MAX_BYTES)
            return value if isinstance(value, dict) else None
        return None

    def close(self) -> None:
        """Say that nothing is being done."""
        self._path.unlink(missing_ok=True)


def clear_bootstraps(prefix: Path) -> None:
    """Remove the private folders of install.sh runs that are no more."""
    for folder in prefix.glob(".bootstrap.*"):
        match = _BOOTSTRAP.fullmatch(folder.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            disk.remove_tree(folder)
