"""Which processes are servers of a prefix that this account may stop, start and give orders to.

A process can call itself anything, so its arguments are a claim. A server of this account proves
itself by its run state: in a folder that this account alone can write, under the lock that the
server holds, and in agreement with the kernel about user, start and program. A service of the
system is one by systemd's word. Whatever else claims to be a server is named, and left as it is.

Stdlib only.
"""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pack.format.errors import PreflightError
from llava_pack.serve.background import answer_of
from llava_pack.serve.origin import (
    account_folder,
    deciding,
    held,
    state_name,
    still,
    texts,
    user_of,
)
from llava_pack.target import ownership
from llava_pack.target.serving import claims

UNIT = re.compile(r"llava-pack(-[A-Za-z0-9_-]+)?\.service")
_SPREAD = frozenset({"--nodes", "--join"})
_STATE_BYTES = 64 * 1024
_SYSTEMD_S = 60


@dataclass(frozen=True, kw_only=True)
class Server:
    """A `serve` of a prefix that proved itself, and how to have it again."""

    pid: int
    arguments: tuple[str, ...]
    """After `serve`."""
    folder: str
    """Where it was started."""
    unit: str | None
    """Of systemd, None where a person started it."""
    of_user: bool
    """The unit is one of this account's own manager."""
    uid: int
    environ: Mapping[str, str]

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.unit or ' '.join(['serve', *self.arguments])} (process {self.pid})"

    @property
    def same(self) -> tuple[tuple[str, ...], str | None]:
        """What it keeps when it is started again."""
        return (self.arguments if self.unit is None else ()), self.unit

    @property
    def spread(self) -> bool:
        """Whether other machines hold its model with it, which need the same bundle."""
        return any(word.partition("=")[0] in _SPREAD for word in self.arguments)

    @property
    def ours(self) -> bool:
        """Whether it may be started by this account: its own, or for root a unit of the system."""
        of_system = self.unit is not None and not self.of_user
        named = self.unit is None or UNIT.fullmatch(self.unit) is not None
        return named and (self.uid == os.geteuid() or (of_system and os.geteuid() == 0))


def survey(prefix: Path, recipe: str | None) -> tuple[list[Server], list[str]]:
    """Return the servers that prove themselves, and a line about each process that does not."""
    claimed, units = list(claims(prefix, recipe)), {}
    if claimed:
        units = {**_units(of_user=True), **_units(of_user=False)}
    servers, others = [], []
    for pid, argv in claimed:
        server = _server(prefix, pid, argv, units)
        if server is not None and server.ours:
            servers.append(server)
        elif (uid := user_of(pid)) == os.geteuid():
            others.append(f"! process {pid} could not be confirmed as a server: it is left alone")
        else:
            whose = f"! process {pid} belongs to another account ({ownership.account(uid)}): "
            others.append(f"{whose}left alone until that account restarts it")
    return servers, others


def run_folders(prefix: Path) -> tuple[Path, Path]:
    """Return where run states of this account can be: the prefix's folder, and the account's."""
    return prefix / "run", account_folder()


def _server(
    prefix: Path, pid: int, argv: list[str], units: Mapping[int, tuple[str, bool]]
) -> Server | None:
    unit, of_user = units.get(pid, (None, False))
    uid = user_of(pid)
    facts: dict[str, Any] | None = None
    if unit is not None:
        facts = {"arguments": tuple(argv[5:]), "folder": "/", "environ": {}}
    elif uid == os.geteuid():
        facts = _facts(prefix, pid, argv)
    if facts is None or uid is None:
        return None
    return Server(pid=pid, unit=unit, of_user=of_user, uid=uid, **facts)


def _facts(prefix: Path, pid: int, argv: list[str]) -> dict[str, Any] | None:
    """Return how a process of this account was started, None where it proves nothing."""
    state, process = _run_state(prefix, pid), Path(f"/proc/{pid}")
    if state is None or not _runs_from(prefix, process / "exe"):
        return None
    try:
        # earlier versions wrote none of these down; of the same user, they add no rights
        environ = dict(text.partition("=")[::2] for text in texts(process / "environ"))
        seen = {"arguments": argv[5:], "folder": str((process / "cwd").readlink())}
    except OSError:
        return None
    told = {**seen, "environ": environ, **state}
    return {
        "arguments": tuple(told["arguments"]),
        "folder": told["folder"],
        "environ": deciding(told["environ"], told["arguments"]),
    }


def _run_state(prefix: Path, pid: int) -> dict[str, Any] | None:
    """Return what a server of this account wrote down about itself, None where none lives."""
    for folder in filter(ownership.own_folder, run_folders(prefix)):
        try:
            descriptor = ownership.opened(folder / state_name(pid), os.O_RDONLY)
        except (OSError, PreflightError):
            continue
        with os.fdopen(descriptor, "rb") as file, suppress(ValueError):
            state = json.loads(file.read(_STATE_BYTES)) if held(descriptor) else None
            if isinstance(state, dict) and state.get("pid") == pid:
                return state if still(pid, state.get("start_ticks")) else None
    return None


def _runs_from(prefix: Path, program: Path) -> bool:
    """Say whether a process runs the interpreter of a generation, even one replaced meanwhile."""
    for python in prefix.glob("models/*/generations/*/venv/bin/python"):
        with suppress(OSError):
            own = python.resolve(strict=True)
            if own.stat().st_uid in {0, os.geteuid()}:
                replaced = str(program.readlink()) == f"{own} (deleted)"
                if replaced or program.samefile(own):
                    return True
    return False


def _units(*, of_user: bool) -> dict[int, tuple[str, bool]]:
    """Return the services of llava-pack by their process, as systemd says and nobody else.

    Only units whose file no other account can change: restarted, they run what is in it.
    """
    command = ["systemctl", *(["--user"] if of_user else []), "show", "llava-pack*.service"]
    command += ["--property=Id,MainPID,FragmentPath"]
    found = {}
    for block in answer_of(command, _SYSTEMD_S).decode(errors="replace").split("\n\n"):
        facts = dict(line.partition("=")[::2] for line in block.splitlines())
        with suppress(KeyError, ValueError, PreflightError):
            if UNIT.fullmatch(facts["Id"]):
                ownership.check(Path(facts["FragmentPath"]), None if of_user else 0)
                found[int(facts["MainPID"])] = (facts["Id"], of_user)
    return found
