"""The token that `serve --keep-token` has again at each start: one file of mode 0600.

What cookies and LLaVA's keys are derived from is kept with it, so that a browser that has logged in
stays so. It is no function of the token: whoever has the token must not know other people's keys.
"""

import json
import os
import platform
import secrets
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llava_pack.format import files
from llava_pack.format.errors import SpaceError, UsageError, reason_of
from llava_pack.target import ownership

TOKEN_BYTES = 32
_MAX_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class KeptToken:
    """What outlives a start."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES))
    start_secret: str = field(default_factory=lambda: secrets.token_hex(TOKEN_BYTES))


def token_path(run_directory: Path) -> Path:
    """Return where it is, in the folder of run states; several hosts can share a home folder.

    >>> token_path(Path("/opt/llava-pack/run")).parent.as_posix()
    '/opt/llava-pack/run'
    """
    return run_directory / f"token-{platform.node() or 'localhost'}"


def kept_token(path: Path) -> KeptToken:
    """Return the token that was kept; the first time, one is made.

    Raises:
        UsageError: the file cannot be read or written, is open to others, or is damaged.
        SpaceError: the disk is full.
        PreflightError: the file is another account's.
    """
    try:
        descriptor = ownership.opened(path, os.O_RDONLY)
    except FileNotFoundError:
        return renewed_token(path)
    except OSError as error:
        raise _unusable(path, reason_of(error)) from error
    with os.fdopen(descriptor, "rb") as file:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            raise _unusable(path, "it is open to other accounts, expected mode 0600")
        data = file.read(_MAX_BYTES)
    with suppress(ValueError, TypeError):
        kept = KeptToken(**json.loads(data))
        if all(isinstance(one, str) and len(one) >= TOKEN_BYTES for one in asdict(kept).values()):
            return kept
    raise _unusable(path, "it is damaged")


def renewed_token(path: Path) -> KeptToken:
    """Make another token in place of the one that was kept, and return it.

    Raises:
        UsageError: the file cannot be written.
        SpaceError: the disk is full; the token before is kept.
    """
    kept = KeptToken()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write(path, json.dumps(asdict(kept)).encode() + b"\n", 0o600)
    except OSError as error:
        if error.errno in files.FULL:
            raise SpaceError(f"no token is kept: {reason_of(error)}", subject=str(path)) from error
        raise _unusable(path, reason_of(error)) from error
    return kept


def _unusable(path: Path, why: str) -> UsageError:
    return UsageError(
        f"the kept token cannot be used: {why}",
        subject=str(path),
        hint="llava-pack keys renew-token makes another one",
    )
