"""A private folder for one run: the engines' sockets, and an empty place to stand.

It goes when the run ends. What a killed run left goes when the next
one starts: a lock tells the two apart.
"""

import contextlib
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Self

_PREFIX = "llava-pack-serve-"
_LOCK = "lock"
_NAME_BYTES = 12
_LONGEST_PARENT_BYTES = 32
"""So that sockets below it stay within the 107 bytes of unix(7): also those that engines of others
name by 36 characters, in folders of their own."""


class Scratch:
    """The folder; use it as a context manager."""

    def __init__(self, parent: Path | None = None) -> None:
        self._parent = parent or _temporary()
        self._descriptor = -1
        self._control = f"c-{secrets.token_urlsafe(_NAME_BYTES)}"
        self.root = self._parent
        """The folder itself, mode 0700."""

    def __enter__(self) -> Self:
        import fcntl

        sweep(self._parent)
        self.root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))
        self._descriptor = os.open(self.root / _LOCK, os.O_WRONLY | os.O_CREAT, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for folder in (self.empty, self.temporary):
            folder.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        os.close(self._descriptor)

    @property
    def empty(self) -> Path:
        """A working directory with nothing in it to be served by accident."""
        return self.root / "empty"

    @property
    def temporary(self) -> Path:
        """Where the gateway may write what it needs for a moment."""
        return self.root / "temporary"

    @property
    def gateway_home(self) -> Path:
        """Where the gateway makes a folder for what its libraries keep."""
        return self.root / "gateway"

    @property
    def control(self) -> Path:
        """Return the path of the control socket: a name that only the run state tells.

        No fence keeps a process from connecting to a socket whose path it knows. Those that stand
        behind one can neither list this folder nor read the run state.
        """
        return self.root / self._control

    def socket(self, number: int) -> Path:
        """Return the path of an engine's socket; short, for the kernel takes 107 bytes.

        An engine of others has a folder beside it, of the same name without its end.
        """
        return self.root / f"engine-{number}.sock"


def _temporary() -> Path:
    """Return the temporary folder, or the system's own where TMPDIR is too long for a socket."""
    chosen = Path(tempfile.gettempdir())
    fits = len(os.fsencode(chosen)) <= _LONGEST_PARENT_BYTES
    return chosen if fits else Path("/tmp")  # noqa: S108 - the folder made in it is private


def sweep(parent: Path) -> None:
    """Remove the folders of runs that were killed, as far as they are ours."""
    import fcntl

    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            facts = folder.lstat()
            if folder.is_symlink() or facts.st_uid != os.getuid():
                continue
            descriptor = os.open(folder / _LOCK, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
