"""`llava-pack serve --detach`: a server that stays when this command and its ssh session end."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace

from llava_pack.cli import console
from llava_pack.cli.server.asked import program, same_run
from llava_pack.cli.server.following import announce_node
from llava_pack.format.errors import PackError, ServeError, reason_of
from llava_pack.format.exit_codes import ExitCode
from llava_pack.serve.nodes.standing import RUNNING
from llava_pack.serve.run_state import RunState, running

_LOOK_EVERY_S = 0.2
_START_S = 3600.0
_STOPPED_S = 30.0
"""For a server to tell its own error, once one of its models has stopped."""
_LAST_LINES = 12
_TOLD = ("error: ", "hint: ", "known: ")
"""Lines of its error, which is raised here."""
_OWN = frozenset({"--detach", "--json"})


def serve_detached(asked: Mapping[str, str], reached_as: str, *, as_json: bool) -> None:
    """Have a server run in the background: the one that runs already, or a new one.

    Args:
        asked: what it has to be asked for, as `asked_for` returns it.
        reached_as: how the person's ssh got here, empty where that was not told.
        as_json: tell it as data.

    Raises:
        ServeError: the same model is being served otherwise, or the server did not start.
        PackError: the new server's own error.
    """
    same = same_run(asked)
    if same is not None:
        console.say(f"it is already being served, process {same.pid}")
    server = _Child() if same is None else _Found(same.pid)
    try:
        state = _ready(server)
    except KeyboardInterrupt:
        console.say(f"\nit goes on starting in the background, process {server.pid}")
        console.say(f"how far it is: {program()} status; to stop it: {program()} stop")
        raise
    if state.follower:
        announce_node(state, as_json=as_json)
        return
    _announce(state, reached_as, already=same is not None, as_json=as_json)


class _Found:
    """A server that was started before."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def state(self) -> RunState | None:
        """Return its state, None where it has none yet.

        Raises:
            PackError: it has ended.
        """
        state = _state(self.pid)
        if state is None:
            raise ServeError(
                f"the server, process {self.pid}, has stopped", hint=f"{program()} logs"
            )
        return state


class _Child:
    """The new server, while it starts."""

    def __init__(self) -> None:
        from llava_pack.serve.background import started
        from llava_pack.serve.logfile import log_path
        from llava_pack.serve.run_state import directories

        self._log = log_path(directories()[0])
        self._before = self._log.stat().st_size if self._log.is_file() else 0
        words = [word for word in sys.argv[2:] if word not in _OWN]
        command = [sys.executable, "-I", "-m", "llava_pack", "serve", *words, "--json"]
        try:
            self._process = started(command, self._log, stdout=subprocess.PIPE)
        except OSError as error:
            raise ServeError(
                f"it cannot be started in the background: {reason_of(error)}",
                subject=str(error.filename or self._log),
            ) from error
        self.pid = self._process.pid

    def state(self) -> RunState | None:
        """Return its state, None where it has none yet.

        Raises:
            PackError: its own error; or that it ended, with the end of its log on stderr.
        """
        if self._process.poll() is None:
            return _state(self.pid)
        told, _ = self._process.communicate()
        error = _error(told, self._process.returncode)
        if error.exit_code == ExitCode.SERVE:
            for line in self._last_lines():
                console.say(line)
        raise error

    def _last_lines(self) -> list[str]:
        try:
            with self._log.open("rb") as log:
                log.seek(self._before)
                lines = log.read().decode(errors="replace").splitlines()
                return [one for one in lines if not one.startswith(_TOLD)][-_LAST_LINES:]
        except OSError:
            return []


def _error(told: bytes, code: int) -> PackError:
    """Return the error that a server told as JSON, or that it ended without one."""
    from llava_pack.engine.port import error_of_kind

    try:
        facts = json.loads(told.splitlines()[-1])
        return error_of_kind(facts["error"], facts["message"], facts["hint"], facts["subject"])
    except (ValueError, KeyError, IndexError, TypeError):
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        return ServeError(
            f"the server {how} before it was ready",
            hint=f"its log: {program()} logs",
        )


def _state(pid: int) -> RunState | None:
    return next((one for one in running() if one.pid == pid), None)


def _ready(server: "_Child | _Found", within_s: float = _START_S) -> RunState:
    """Wait until a server is ready, and say how far it is.

    Raises:
        PackError: it has ended, or one of its models has stopped, or the time is over.
    """
    from llava_pack.health.served_checks import probe_of

    told, stopped = "", False
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        if (state := server.state()) is not None:
            if state.follower:
                if state.follower["detail"] or state.follower["phase"] == RUNNING:
                    return state
                time.sleep(_LOOK_EVERY_S)
                continue
            with probe_of(state) as probe:
                facts = probe.facts()
            phases = ", ".join(
                f"{name} is {f'{model.phase} {model.detail}'.strip()}"
                for name, model in facts.models.items()
            )
            if phases != told and not facts.ready:
                console.say(phases)
                told = phases
            if facts.ready:
                return state
            if not stopped and any(one.phase == "stopped" for one in facts.models.values()):
                stopped, until_s = True, min(until_s, time.monotonic() + _STOPPED_S)
        time.sleep(_LOOK_EVERY_S)
    raise ServeError(
        f"the server, process {server.pid}, is not ready: {told or 'it does not respond'}",
        subject="serve --detach",
        hint=f"its log: {program()} logs; to stop it: {program()} stop",
    )


def _announce(state: RunState, reached_as: str, *, already: bool, as_json: bool) -> None:
    """Tell how it is reached, and how it is stopped."""
    from llava_pack.cli.server.status import facts_of, model_line
    from llava_pack.client.discovery import this_endpoint
    from llava_pack.health.runtimes import serving_runtime
    from llava_pack.serve.supervision.announcement import announcement, run_fields

    to = this_endpoint(state, reached_as)
    told = announcement(state, to, web=state.asked.get("web") != "False")
    fields = {**run_fields(state, told), "target": to.target, "already": already}
    if (other := serving_runtime(state.engine)) is not None:
        told = replace(
            told, page=f"http://localhost:{to.local_port}/", more=tuple(other.lines(state))
        )
        fields |= {"page": told.page, "runtime": state.engine, **other.fields(state)}
    ends = _why_it_ends(state.pid, already=already)
    if as_json:
        console.document("serve", {**fields, "survives_logout": not ends})
        return
    for name, model in facts_of(state)["models"].items():
        console.say(model_line(name, model))
    console.say("\nOn your laptop (Linux, macOS, Windows PowerShell) run:")
    console.verbatim(told.tunnel)
    console.say("and open:")
    console.verbatim(told.page)
    for line in told.more:
        console.say(line)
    if ends:
        console.say(f"\n! {ends}")
    else:
        console.say(f"\nIt runs in the background, process {state.pid}, also when you log out.")
    console.say(f"To stop it: {program()} stop; its log: {program()} logs")


def _why_it_ends(pid: int, *, already: bool) -> str:
    """Return why a server ends when its person logs out, and what to do; empty where it stays."""
    from llava_pack.serve.background import ends_with_logout

    typed = program()
    if os.getsid(pid) != pid:
        again = f"{typed} stop, then {typed} serve --detach"
        return f"it was started in a terminal, and ends with it; to have it stay: {again}"
    if not already and ends_with_logout():
        again = f"{typed} stop, then {typed} service install"
        return f"systemd ends it when you log out (KillUserProcesses=yes); to have it stay: {again}"
    return ""
