"""How a server was started, as its run state keeps it: what a restart after an upgrade goes by.

Read from the kernel, which it is compared with then. Where there is no /proc, nothing is kept, and
nothing is restarted. Where run states are, and what makes one alive, is here as well, for all who
look for servers. Stdlib only.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llava_pack.format.errors import PreflightError
from llava_pack.target import environment, generations, ownership

KEPT = (*environment.ENGINE, "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME")
"""What of a server's environment decides how it serves, beside what `bin/llava-pack` kept."""


def origin(pid: int) -> dict[str, Any]:
    """Return when and how a server of this account was started; empty where that is not known."""
    process = Path("/proc", str(pid))
    try:
        argv, environ = (texts(process / name) for name in ("cmdline", "environ"))
        folder = str((process / "cwd").readlink())
    except OSError:
        return {}
    arguments = argv[argv.index("serve") + 1 :] if "serve" in argv else []
    return {
        "start_ticks": start_ticks(pid),
        "arguments": arguments,
        "folder": folder,
        "environ": deciding(dict(text.partition("=")[::2] for text in environ), arguments),
    }


def deciding(environ: Mapping[str, str], arguments: Sequence[str]) -> dict[str, str]:
    """Return what of an environment a server is started with again, by its arguments.

    >>> deciding({"HOME": "/h", "A": "1", "B": "2"}, ["--keep-env", "A"])
    {'HOME': '/h', 'A': '1'}
    """
    kept = (environment.CHOSEN, *environment.chosen(environ), *environment.kept(arguments))
    names = (*KEPT, *kept)
    return {name: environ[name] for name in names if name in environ}


def start_command(*, root: bool | None = None) -> str:
    """Return what starts a server: root says that it is meant.

    Args:
        root: whether root types it; None for the account of this process.
    """
    root = os.geteuid() == 0 if root is None else root
    return "llava-pack serve --as-root" if root else "llava-pack serve"


def start_ticks(pid: int) -> int | None:
    """Return when a process began, None where it has ended. Source: proc(5), stat, starttime."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = line.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def user_of(pid: int) -> int | None:
    """Return whose process it is; None where it has ended, has several users, or cannot be told.

    Not the owner of its folder in /proc: that is root for whatever may not be looked at.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        uids = {int(word) for word in status.split("\nUid:")[1].splitlines()[0].split()}
    except (OSError, IndexError, ValueError):
        return None
    return uids.pop() if len(uids) == 1 else None


def account_folder() -> Path:
    """Return the folder of this account's run states that belong to no installation.

    Not XDG_RUNTIME_DIR: that one is emptied when the last session of an account ends, and servers
    are left running over that. An account without a home folder has one of its own in /tmp.

    Raises:
        PreflightError: that one is another account's.
    """
    home = generations.base_folder("XDG_STATE_HOME", ".local/state")
    return (home or _temporary_home()) / "llava-pack" / "run"


def _temporary_home() -> Path:
    folder = Path(f"/tmp/llava-pack-{os.geteuid()}")  # noqa: S108 - made private, or refused
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not ownership.own_folder(folder):
        raise PreflightError(
            "expected a folder of this account alone",
            subject=str(folder),
            hint="set HOME or XDG_STATE_HOME to a folder that is yours",
        )
    return folder


def state_name(pid: int | str) -> str:
    """Return the name of a run state; several hosts can share a home folder.

    >>> state_name(123).endswith("-123.json")
    True
    """
    return f"serve-{platform.node() or 'localhost'}-{pid}.json"


def held(descriptor: int) -> bool:
    """Say whether another process holds the lock of a file, as a server does on its run state."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def still(pid: int, began: int | None) -> bool:
    """Say whether a number is still that of the process that began then; None where nobody knows.

    Earlier versions wrote nothing down.
    """
    return began is None or start_ticks(pid) == began


def texts(path: Path) -> list[str]:
    """Return the texts of a file of /proc that ends each with a zero byte."""
    return os.fsdecode(path.read_bytes()).rstrip("\0").split("\0")
