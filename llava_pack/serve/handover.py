"""Servers of a prefix on their way to another generation: stopped, started, asked.

`python -I -m llava_pack.serve.handover stop|restart PREFIX RECIPE`, run by the installer with the
interpreter of a generation. Which processes those are, `own_servers` decides. What was stopped is
on disk until it runs again, so that a run that is killed loses no server. Exit code 14 with the
reason on stdout; talk on stderr. Stdlib only.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llava_pack.format import files
from llava_pack.format.errors import InstallError, PackError
from llava_pack.serve import background, own_servers
from llava_pack.serve.origin import start_ticks
from llava_pack.serve.own_servers import Server
from llava_pack.target import generations, ownership
from llava_pack.target.serving import PENDING

AS_ROOT = "LLAVA_PACK_AS_ROOT"
"""Lets root serve; earlier generations do not know the option, and overlook this."""
_READY_S = 1800
_STOP_S = 40.0
_LOOK_EVERY_S = 0.05


def stop(prefix: Path, recipe: str) -> tuple[Server, ...]:
    """Stop the servers of a recipe that prove to be this account's, and return all to run again.

    Whatever else looks like one is named, and left as it is.

    Raises:
        InstallError: one does not end.
    """
    alive, others = own_servers.survey(prefix, recipe)
    for line in others:
        _say(line)
    known = {server.same: server for server in (*_read(prefix), *alive)}
    _write(prefix, known.values())
    for server in alive:
        _say(f"stopping {server.name}")
        if not _ended(server):
            raise InstallError(f"{server.name} did not stop")
    return tuple(known.values())


def restart(prefix: Path, recipe: str) -> None:
    """Have every server of a recipe run from what is current now, and ask for its health.

    Raises:
        InstallError: one does not stop, ends at its start, does not get ready, or is not well.
    """
    servers = stop(prefix, recipe)
    alone = [server for server in servers if not server.spread]
    for server in servers:
        if server.spread:
            _say(f"! {server.name} spans machines: it is not started before all have this version")
    for server in alone:
        _start(prefix, server)
    if alone:
        asked = _llava_pack(prefix, "health")
        if asked.returncode > 1:
            said = asked.stdout.strip() or asked.stderr.strip()
            raise InstallError(f"health exited with code {asked.returncode}: {said:.400}")
    (prefix / PENDING).unlink(missing_ok=True)


def _start(prefix: Path, server: Server) -> None:
    _say(f"starting {server.name}")
    if server.unit is not None:
        _systemctl(server, "restart")
        return
    tested = {one: os.environ[one] for one in generations.kept(prefix) if one in os.environ}
    environ = {**os.environ, **server.environ, **tested}
    arguments = [word for word in server.arguments if word != "--as-root"]
    if os.geteuid() == 0:
        _say("! it still serves as root; to change that: llava-pack service install --account NAME")
        environ[AS_ROOT] = "1"
    log, folder = _log(prefix), Path(server.folder)
    # for this account alone: the page's address in it holds the token
    child = background.started(
        [str(prefix / "bin" / "llava-pack"), "serve", *arguments],
        log,
        folder=folder if folder.is_dir() else prefix,
        environ=environ,
    )
    _wait_ready(prefix, child, log)
    _say(f"it is running in the background, process {child.pid}, and logs to {log}")


def _log(prefix: Path) -> Path:
    """Return where a server writes that was started here: beside this account's run states.

    Raises:
        InstallError: no such folder is this account's own.
    """
    for run in own_servers.run_folders(prefix):
        folder = run.with_name("logs")
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if ownership.own_folder(folder):
            return folder / "restarted.log"
    raise InstallError(f"{prefix / 'logs'} belongs to another account: the server cannot log there")


def _wait_ready(prefix: Path, child: "subprocess.Popen[bytes]", log: Path) -> None:
    command = [str(prefix / "bin" / "llava-pack"), "health", "--wait-ready", str(_READY_S)]
    null = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=null, stdout=null, stderr=null) as waiting:
        while waiting.poll() is None and child.poll() is None:
            time.sleep(_LOOK_EVERY_S)
        waiting.kill()
    if child.poll() is not None:
        tail = log.read_text(errors="backslashreplace").strip().rpartition("\n")[2]
        raise InstallError(f"the server exited with code {child.returncode}: {tail:.400}")
    if waiting.returncode != 0:
        child.kill()
        child.wait()
        raise InstallError(f"the server was not ready within {_READY_S} s, see {log}")


def _llava_pack(prefix: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(prefix / "bin" / "llava-pack"), *arguments]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _ended(server: Server) -> bool:
    """Have a server end, and say whether it did; a service is systemd's to end, by no signal."""
    began = start_ticks(server.pid)
    if server.unit is not None:
        _systemctl(server, "stop")
        return _gone(server.pid, began)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if began is not None and start_ticks(server.pid) == began:
            os.kill(server.pid, number)
        if _gone(server.pid, began):
            return True
    return False


def _gone(pid: int, began: int | None) -> bool:
    """Wait for a process to end; a later one of the same number is another one."""
    until_s = time.monotonic() + _STOP_S
    while (alive := began is not None and start_ticks(pid) == began) and (
        time.monotonic() < until_s
    ):
        time.sleep(_LOOK_EVERY_S)
    return not alive


def _systemctl(server: Server, verb: str) -> None:
    command = ["systemctl", *(["--user"] if server.of_user else []), verb, str(server.unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InstallError(f"systemctl {verb} {server.unit}: {done.stderr.strip():.400}")


def _read(prefix: Path) -> Iterator[Server]:
    """Yield what an earlier run stopped; earlier versions noted what was not theirs to start.

    Raises:
        PreflightError: another account could have written it.
    """
    try:
        descriptor = ownership.opened(prefix / PENDING, os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            values: list[dict[str, Any]] = json.loads(file.read())
    except (OSError, ValueError):
        return
    for value in values:
        server = Server(**{**value, "arguments": tuple(value["arguments"])})
        if server.ours:
            yield server
        else:
            _say(f"! {server.name} belonged to another account: it is not started here")


def _write(prefix: Path, servers: Iterable[Server]) -> None:
    data = json.dumps([asdict(server) for server in servers]).encode()
    files.write(prefix / PENDING, data, 0o600)


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
