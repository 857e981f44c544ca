"""The join key: what a machine has to know to become one of several nodes.

The head makes it once and keeps it, so that the others join again by themselves after each of its
starts. It travels in the environment of the printed line, which no list of processes shows to other
accounts, and each follower keeps it too: its unit needs no secret.
"""

import re
import secrets
from collections.abc import MutableMapping
from pathlib import Path

from llava_pack.format.errors import UsageError
from llava_pack.serve.access.private_file import PrivateFile, path_of_host

VARIABLE = "LLAVA_PACK_JOIN_KEY"
"""Source: docs/reference/environment.md."""
_KEY_BYTES = 32
_KEY = re.compile(r"[A-Za-z0-9_-]{43}")


def join_key_path(run_directory: Path) -> Path:
    """Return where it is, in the folder of run states."""
    return path_of_host(run_directory, "join-key")


def heads_key(path: Path) -> str:
    """Return the key that followers of this machine have to know; the first time, one is made.

    Raises:
        UsageError: the file cannot be read or written, is open to others, or is damaged.
        SpaceError: the disk is full.
        PreflightError: the file is another account's.
    """
    return _kept(path) or _keep(path, secrets.token_urlsafe(_KEY_BYTES))


def followers_key(path: Path, environment: MutableMapping[str, str]) -> str:
    """Return the key of the head: as the environment says, which is kept; else as it said before.

    Args:
        path: where it is kept.
        environment: of this process; the key is taken out, since nothing that it starts needs it.

    Raises:
        UsageError: nobody ever told it, or the file cannot be used.
        SpaceError: the disk is full.
        PreflightError: the file is another account's.
    """
    if told := told_key(environment):
        return _keep(path, told)
    if (kept := _kept(path)) is None:
        raise UsageError("the head's join key is not known here", subject="--join", hint=_hint())
    return kept


def told_key(environment: MutableMapping[str, str]) -> str:
    """Return the key that the environment says, and take it out; empty where it says none.

    Raises:
        UsageError: it is no key.
    """
    told = environment.pop(VARIABLE, "")
    if told and not _KEY.fullmatch(told):
        raise UsageError("expected a join key of 43 letters", subject=VARIABLE, hint=_hint())
    return told


def _kept(path: Path) -> str | None:
    data = _file(path).read()
    if data is None:
        return None
    key = data.decode(errors="replace").strip()
    if not _KEY.fullmatch(key):
        raise _file(path).damaged()
    return key


def _keep(path: Path, key: str) -> str:
    _file(path).write(key.encode() + b"\n")
    return key


def _file(path: Path) -> PrivateFile:
    return PrivateFile(path=path, hint=f"remove {path}; {_hint()}")


def _hint() -> str:
    return f"the line that `llava-pack serve --nodes` prints begins with {VARIABLE}=KEY"
