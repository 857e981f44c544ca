"""The run state: how `chat` and `health` find the server that runs on this machine.

One file a server, readable by its owner only, written beside and renamed. The serving process
holds a lock on it for as long as it lives, so that a file left by a killed server is known to be
stale whatever its process number means by then.
"""

import contextlib
import json
import logging
import os
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from llava_pack.format import files
from llava_pack.format.manifest import Engine
from llava_pack.serve.origin import account_folder, held, origin, state_name, still, user_of

_log = logging.getLogger(__name__)
_MAX_BYTES = 64 * 1024
DRAIN_S = 30.0
TERM_S = 5.0
"""How long a process gets that is told to end, where nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A server that runs on this machine."""

    pid: int
    """The supervising process."""
    host: str
    """The address it listens on."""
    port: int
    """The port it listens on; with a socket, the one proposed for the laptop."""
    token: str
    """The token of this start; empty where none is asked for."""
    socket: str | None
    """Path of the Unix socket that it listens on instead of a port."""
    models: tuple[str, ...]
    """Names for `model` in the API."""
    started: int
    """UTC seconds."""
    bundle_id: str | None
    """Id of the bundle that was installed, None for a bare folder."""
    control: str = ""
    """Path of the control socket; empty until it listens."""
    log: str = ""
    """Path of its log."""
    drain_s: float = DRAIN_S
    """How long running requests may take to finish at shutdown."""
    term_s: float = TERM_S
    """How long its engines may then take to end."""
    controller: str = ""
    """URL of LLaVA's own controller; empty where llava-pack's engine serves."""
    llava_path: str = ""
    """Path of LLaVA's own routes, with a key in it; empty where none is asked for."""
    public_url: str = ""
    """Where people open it behind a proxy, without a slash at its end; empty for loopback alone."""
    fences: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Which fence stands around each of LLaVA's own programs, as they told; by their names."""
    keeps_token: bool = False
    """Whether the next start has the same token."""
    reached_as: str = ""
    """How the person's ssh got here, as their laptop told; empty where none did."""
    follower: Mapping[str, Any] = field(default_factory=dict)
    """Of which head it is a node, as which, and how far; empty where it serves by itself."""
    network: str = ""
    """Of the machines that hold the model together; empty where this one holds it alone."""
    replicas: tuple[str, ...] = ()
    """Addresses of other servers that it asks."""
    asked: Mapping[str, str] = field(default_factory=dict)
    """What the run was asked for, by option; empty where an earlier version wrote the state."""
    start_ticks: int | None = field(default=None, compare=False)
    """When the process began, as the kernel counts; None where nobody wrote it down."""
    owner: int | None = field(default=None, compare=False)
    """Whose file the state is: found out by who reads it, and never believed of the file."""

    @property
    def engine(self) -> Engine:
        """The runtime that serves: no state names it, and LLaVA's own has a controller."""
        return "upstream" if self.controller else "transformers"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What whoever reads it could use: literals for who redacts."""
        key = self.llava_path.rpartition("/")[2]
        return tuple(value for value in (self.token, key) if value)

    @property
    def url(self) -> str:
        """The root of the API for a client on this machine."""
        if self.socket is not None:
            return "http://localhost"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class Publication:
    """A run state on disk, held by this process until it is withdrawn or the process ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    def update(self, state: RunState) -> None:
        """Put another state in its place; there is no moment without one."""
        before, self._descriptor = self._descriptor, _write(self.path, state)
        if before is not None:
            os.close(before)

    def withdraw(self) -> None:
        """Remove the file and let go of it; a second call does nothing."""
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def directories(installation: Path | None = None) -> tuple[Path, ...]:
    """Return the folders of run states, the one to write first.

    The installation's comes first, then this account's.

    Args:
        installation: its prefix; None for the one that the environment names.

    Source: docs/reference/environment.md, LLAVA_PACK_PREFIX.
    """
    account = account_folder()
    prefix = installation or os.environ.get("LLAVA_PACK_PREFIX")
    if not prefix:
        return (account,)
    installed = Path(prefix) / "run"
    return (installed, account) if _own(installed) else (account, installed)


def _own(folder: Path) -> bool:
    """Say whether this account alone writes a folder; a service's is not root's place to write."""
    if sys.platform == "win32":
        return False
    place = folder if folder.exists() else folder.parent
    try:
        facts = place.stat()
    except OSError:
        return False
    mine = facts.st_uid == os.geteuid() and not facts.st_mode & stat.S_IWOTH
    return mine and os.access(place, os.W_OK | os.X_OK)


def publish(directory: Path, state: RunState) -> Publication:
    """Write the run state of this process, 0600 in a 0700 folder, and hold its lock.

    Raises:
        OSError: the folder cannot be made or written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / state_name(state.pid)
    return Publication(path, _write(path, state))


def _write(path: Path, state: RunState) -> int:
    """Replace a state; return the descriptor that holds its lock."""
    import fcntl

    facts = {**asdict(state), **origin(state.pid)}
    with files.replacing(path, 0o600) as file:
        file.write(json.dumps(facts, sort_keys=True).encode() + b"\n")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # or no other process sees that it lives
        return os.dup(file.fileno())


def running(where: Iterable[Path] | None = None) -> tuple[RunState, ...]:
    """Return the servers that run on this machine.

    Those of the first folder come first, so that an installation meets its own before others of the
    account; among them the latest started.

    Files that a killed server left are removed where that is allowed.

    Args:
        where: folders to look in; those of `directories()` by default.
    """
    if sys.platform == "win32":  # a laptop: no server runs there
        return ()
    folders = directories() if where is None else tuple(where)
    found: list[RunState] = []
    for folder in folders:
        states = (_read_live(path) for path in sorted(folder.glob(state_name("*"))))
        live = [state for state in states if state is not None]
        found += sorted(live, key=lambda state: state.started, reverse=True)
    return tuple(found)


def serving(where: Iterable[Path] | None = None) -> tuple[RunState, ...]:
    """Return those that answer: not the nodes of another machine's server.

    Args:
        where: folders to look in; those of `directories()` by default.
    """
    return tuple(state for state in running(where) if not state.follower)


def _read_live(path: Path) -> RunState | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | files.UNFOLLOWED)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or os.getuid() not in {0, facts.st_uid}:
            _log.warning("%s: ignored, it is not a file of this account", path.name)
            return None
        if held(descriptor):
            state = _parse(file.read(_MAX_BYTES))
            state = state and replace(state, owner=facts.st_uid)
            return state if state and _speaks(state, facts.st_uid) else None
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def _speaks(state: RunState, uid: int) -> bool:
    """Say whether a state is about a process of its file's owner, and still about that one.

    Root believes no other; and a number that was given to another process since names nobody.
    """
    same = still(state.pid, state.start_ticks)
    return same and (uid == os.getuid() or user_of(state.pid) == uid)


def _parse(data: bytes) -> RunState | None:
    try:
        values: Any = json.loads(data)
        known = {one.name: values[one.name] for one in fields(RunState) if one.name in values}
        several = {name: tuple(known.get(name, ())) for name in ("models", "replicas")}
        return RunState(**{**known, **several})
    except (ValueError, KeyError, TypeError):
        return None
