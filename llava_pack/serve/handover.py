"""Servers of a prefix on their way to another generation: found, stopped, started, asked.

`python -I -m llava_pack.serve.handover stop|restart PREFIX RECIPE`, run by the installer with the
interpreter of a generation. What was stopped is on disk until it runs again, so that a run that is
killed loses no server. Exit code 14 with the reason on stdout; talk on stderr. Stdlib only.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llava_pack.format.errors import InstallError, PackError
from llava_pack.shipped import shipped

_SERVE = ["-I", "-m", "llava_pack", "serve"]
_KEPT = (
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "HOME",
    "XDG_STATE_HOME",
)
_UNIT = re.compile(r"/(llava-pack[^/]*\.service)$", re.MULTILINE)
_READY_S = 1800
_STOP_S = 40.0
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Server:
    """A `serve` of a prefix, and how to have it again."""

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
    """What of its environment decides how it serves."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.unit or ' '.join(['serve', *self.arguments])} (process {self.pid})"

    @property
    def same(self) -> tuple[tuple[str, ...], str | None]:
        """What it keeps when it is started again."""
        return self.arguments, self.unit


def running(prefix: Path, recipe: str | None = None) -> tuple[Server, ...]:
    """Return the servers of a prefix, or only those that a change of `recipe` is about."""
    found = (_server(prefix, recipe, process) for process in Path("/proc").iterdir())
    return tuple(server for server in found if server is not None)


def stop(prefix: Path, recipe: str) -> tuple[Server, ...]:
    """Stop this account's servers of a recipe, and return all that are to run again.

    Raises:
        InstallError: one does not end.
    """
    alive = []
    for server in running(prefix, recipe):
        if os.geteuid() in {0, server.uid}:
            alive.append(server)
        else:
            _say(f"! {server.name} is another account's: it stays as it is until that restarts it")
    known = {server.same: server for server in (*_read(prefix), *alive)}
    _write(prefix, known.values())
    for server in alive:
        _say(f"stopping {server.name}")
        if server.unit is not None:
            _systemctl(server, "stop")
        if not any(_ends(server.pid, n) for n in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)):
            raise InstallError(f"{server.name} does not end")
    return tuple(known.values())


def restart(prefix: Path, recipe: str) -> None:
    """Have every server of a recipe run from what is current now, and ask for its health.

    Raises:
        InstallError: one does not stop, ends at its start, does not get ready, or is not well.
    """
    servers = stop(prefix, recipe)
    for server in servers:
        _start(prefix, server)
    if not servers:
        return
    asked = _llava_pack(prefix, "health")
    if asked.returncode > 1:
        said = asked.stdout.strip() or asked.stderr.strip()
        raise InstallError(f"health ended with {asked.returncode}: {said:.400}")
    (prefix / _pending()).unlink(missing_ok=True)


def _start(prefix: Path, server: Server) -> None:
    _say(f"starting {server.name}")
    if server.unit is not None:
        _systemctl(server, "restart")
        return
    (prefix / "logs").mkdir(exist_ok=True)
    log = prefix / "logs" / "restarted.log"
    folder = Path(server.folder)
    # for this account alone: the page's address in it holds the token
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with os.fdopen(os.open(log, flags, 0o600), "ab") as output:
        child = subprocess.Popen(
            [str(prefix / "bin" / "llava-pack"), "serve", *server.arguments],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            cwd=folder if folder.is_dir() else prefix, env={**os.environ, **server.environ},
        )  # fmt: skip
    _wait_ready(prefix, child, log)
    _say(f"it runs in the background now, process {child.pid}, and writes to {log}")


def _wait_ready(prefix: Path, child: "subprocess.Popen[bytes]", log: Path) -> None:
    command = [str(prefix / "bin" / "llava-pack"), "health", "--wait-ready", str(_READY_S)]
    null = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=null, stdout=null, stderr=null) as waiting:
        while waiting.poll() is None and child.poll() is None:
            time.sleep(_LOOK_EVERY_S)
        waiting.kill()
    if child.poll() is not None:
        tail = log.read_text(errors="backslashreplace").strip().rpartition("\n")[2]
        raise InstallError(f"the server ended with {child.returncode}: {tail:.400}")
    if waiting.returncode != 0:
        _ends(child.pid, signal.SIGKILL)
        raise InstallError(f"the server was not ready within {_READY_S} s, see {log}")


def _llava_pack(prefix: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(prefix / "bin" / "llava-pack"), *arguments]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _server(prefix: Path, recipe: str | None, process: Path) -> Server | None:
    try:
        argv = _texts(process / "cmdline")
        uid = process.stat().st_uid
        group = (process / "cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    if argv[1:5] != _SERVE or not argv[0].startswith(f"{prefix}/models/"):
        return None
    own = argv[0].removeprefix(f"{prefix}/models/").partition("/")[0]
    if recipe not in {None, own, *argv[5:]}:
        return None
    try:
        environ = dict(text.partition("=")[::2] for text in _texts(process / "environ"))
        folder = str((process / "cwd").readlink())
    except OSError:  # another account's: it may be seen, not read
        environ, folder = {}, "/"
    unit = _UNIT.search(group)
    return Server(
        pid=int(process.name),
        arguments=tuple(argv[5:]),
        folder=folder,
        unit=unit[1] if unit else None,
        of_user="/user@" in group,
        uid=uid,
        environ={name: environ[name] for name in _KEPT if name in environ},
    )


def _texts(path: Path) -> list[str]:
    return os.fsdecode(path.read_bytes()).rstrip("\0").split("\0")


def _ends(pid: int, number: int) -> bool:
    """Send a signal, and say whether the process ends."""
    if _alive(pid):
        os.kill(pid, number)
    until_s = time.monotonic() + _STOP_S
    while _alive(pid) and time.monotonic() < until_s:
        time.sleep(_LOOK_EVERY_S)
    return not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2][1] != "Z"


def _systemctl(server: Server, verb: str) -> None:
    command = ["systemctl", *(["--user"] if server.of_user else []), verb, str(server.unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InstallError(f"systemctl {verb} {server.unit}: {done.stderr.strip():.400}")


def _pending() -> str:
    _llava_target()
    from llava_target.serving import PENDING

    return PENDING


def _llava_target() -> None:
    folder = str(shipped("installers"))
    if folder not in sys.path:
        sys.path.append(folder)


def _read(prefix: Path) -> Iterator[Server]:
    try:
        values: list[dict[str, Any]] = json.loads((prefix / _pending()).read_bytes())
    except (OSError, ValueError):
        return
    for value in values:
        yield Server(**{**value, "arguments": tuple(value["arguments"])})


def _write(prefix: Path, servers: Iterable[Server]) -> None:
    name = _pending()
    from llava_target import disk

    data = json.dumps([asdict(server) for server in servers]).encode()
    disk.write_file(prefix / name, data, 0o600)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str]) -> int:
    """Run with: verb, prefix, recipe."""
    verb, prefix, recipe = arguments
    try:
        {"stop": stop, "restart": restart}[verb](Path(prefix), recipe)
    except PackError as error:
        sys.stdout.write(f"{error}\n")
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
