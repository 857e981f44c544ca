"""A secret that outlives a start: one file of this account's, of mode 0600."""

import os
import platform
import stat
from dataclasses import dataclass
from pathlib import Path

from llava_pack.format import files
from llava_pack.format.errors import SpaceError, UsageError, reason_of
from llava_pack.target import ownership

_MAX_BYTES = 4096


def path_of_host(run_directory: Path, name: str) -> Path:
    """Return where a secret of this machine is kept; several hosts can share a home folder.

    >>> path_of_host(Path("/opt/llava-pack/run"), "token").parent.as_posix()
    '/opt/llava-pack/run'
    """
    return run_directory / f"{name}-{platform.node() or 'localhost'}"


@dataclass(frozen=True, kw_only=True)
class PrivateFile:
    """Where a secret is kept.

    Attributes:
        path: of the file.
        hint: how to have another.
    """

    path: Path
    hint: str

    def read(self) -> bytes | None:
        """Return what is kept, None where nothing is.

        Raises:
            UsageError: the file cannot be read, or is open to others.
            PreflightError: the file is another account's.
        """
        try:
            descriptor = ownership.opened(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(self, reason_of(error)) from error
        with os.fdopen(descriptor, "rb") as file:
            if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
                raise _unusable(self, "it is open to other accounts, expected mode 0600")
            return file.read(_MAX_BYTES)

    def write(self, data: bytes) -> None:
        """Keep something else.

        Raises:
            UsageError: the file cannot be written.
            SpaceError: the disk is full; what was kept before still is.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write(self.path, data, 0o600)
        except OSError as error:
            if error.errno in files.FULL:
                raise SpaceError(
                    f"no secret is kept: {reason_of(error)}", subject=str(self.path)
                ) from error
            raise _unusable(self, reason_of(error)) from error

    def damaged(self) -> UsageError:
        """Return the error for a file that holds something else."""
        return _unusable(self, "it is damaged")


def _unusable(file: PrivateFile, why: str) -> UsageError:
    return UsageError(
        f"the kept secret cannot be used: {why}", subject=str(file.path), hint=file.hint
    )
