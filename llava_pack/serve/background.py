"""A server that outlives the session in which it was started: `serve --detach`, and upgrades.

It leads a session of its own: no terminal can hang it up, and nothing that its starter was given is
left to it but a log. Stdlib only.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava_pack.target import ownership

_SYSTEMD = Path("/run/systemd/system")
_SYSTEMD_S = 5.0
_LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")


def started(
    command: Sequence[str],
    log: Path,
    *,
    stdout: int | None = None,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a server in a session of its own and return its process.

    Args:
        command: absolute, with its arguments.
        log: what it writes is appended to it; its folder is made, for this account alone.
        stdout: where its stdout goes instead.
        folder: where it stands, here by default.
        environ: its whole environment, this one by default.

    Raises:
        PreflightError: the log is not this account's own file.
        OSError: it cannot be started, or the log cannot be opened.
    """
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = ownership.opened(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output if stdout is None else stdout,
            stderr=output,
            start_new_session=True,
            cwd=folder,
            env=None if environ is None else dict(environ),
        )


def ends_with_logout(systemd: Path = _SYSTEMD, cgroup: Path = Path("/proc/self/cgroup")) -> bool:
    """Say whether systemd kills what this login started, also in sessions of its own, at its end.

    Source: logind.conf(5), KillUserProcesses and KillExcludeUsers, which names root by default.
    """
    try:
        in_login = "/session-" in cgroup.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return bool(
        in_login and os.geteuid() != 0 and systemd.is_dir() and _logind_says("KillUserProcesses")
    )


def _logind_says(name: str) -> bool:
    told = answer_of(["busctl", "get-property", *_LOGIND, name], _SYSTEMD_S)
    return told.split() == [b"b", b"true"]


def answer_of(command: Sequence[str], timeout_s: float) -> bytes:
    """Return what a program of systemd prints, nothing where it is absent or does not end."""
    null = subprocess.DEVNULL
    try:
        done = subprocess.run(
            command,
            stdin=null,
            stdout=subprocess.PIPE,
            stderr=null,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout
