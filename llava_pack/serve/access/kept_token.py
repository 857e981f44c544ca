"""The token that `serve --keep-token` has again at each start: one file of mode 0600.

What cookies and LLaVA's keys are derived from is kept with it, so that a browser that has logged in
stays so. It is no function of the token: whoever has the token must not know other people's keys.
"""

import json
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llava_pack.serve.access.private_file import PrivateFile, path_of_host

TOKEN_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class KeptToken:
    """What outlives a start."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES))
    start_secret: str = field(default_factory=lambda: secrets.token_hex(TOKEN_BYTES))


def token_path(run_directory: Path) -> Path:
    """Return where it is, in the folder of run states."""
    return path_of_host(run_directory, "token")


def kept_token(path: Path) -> KeptToken:
    """Return the token that was kept; the first time, one is made.

    Raises:
        UsageError: the file cannot be read or written, is open to others, or is damaged.
        SpaceError: the disk is full.
        PreflightError: the file is another account's.
    """
    file = _file(path)
    if (data := file.read()) is None:
        return renewed_token(path)
    with suppress(ValueError, TypeError):
        kept = KeptToken(**json.loads(data))
        if all(isinstance(one, str) and len(one) >= TOKEN_BYTES for one in asdict(kept).values()):
            return kept
    raise file.damaged()


def renewed_token(path: Path) -> KeptToken:
    """Make another token in place of the one that was kept, and return it.

    Raises:
        UsageError: the file cannot be written.
        SpaceError: the disk is full; the token before is kept.
    """
    kept = KeptToken()
    _file(path).write(json.dumps(asdict(kept)).encode() + b"\n")
    return kept


def _file(path: Path) -> PrivateFile:
    return PrivateFile(path=path, hint="llava-pack keys renew-token makes another one")
