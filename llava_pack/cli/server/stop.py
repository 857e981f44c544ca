"""`llava-pack stop`: end a server that runs on this machine, or one of its models."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson
from llava_pack.cli.parameters import Ways, refuse_strangers
from llava_pack.client.discovery import chosen_server, ordered
from llava_pack.format.errors import ServeError
from llava_pack.serve.origin import start_ticks, still, user_of
from llava_pack.serve.run_state import RunState, running
from llava_pack.serve.supervision.run_folder import sweep

if TYPE_CHECKING:
    import psutil  # type: ignore[import-untyped]

WAYS: Ways = {
    "replica": ("as_json",),
    "model": ("as_json",),
    "": ("force", "as_json"),
}
_LOOK_EVERY_S = 0.1
_FORCE_AFTER_S = 0.5
_KILL_AFTER_S = 3.0
_CLOSE_S = 5.0
"""What a server needs more than its requests and engines, to end all that is left."""
_LAST_S = 5.0
_CLEAR_S = 2.0


def stop(
    ctx: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="One model; without it, the whole server is stopped.")
    ] = None,
    replica: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A replica, which is asked nothing more; the server there goes on.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Cancel running requests.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the latest server, one model, or asking a replica.

    It returns when all their processes are gone. Other models keep running. Running requests may
    finish, within the time set by `serve --drain-s`; with --force they are cancelled, and shutdown
    takes seconds. A server that does not stop in time is killed, with every process that it
    started.

    \b
    Examples:
      llava-pack stop
      llava-pack stop llava-v1.5-13b
      llava-pack stop --replica gpu3:7860
      llava-pack stop --force
    """
    refuse_strangers(ctx, WAYS)
    if replica is not None:
        _drain(replica, as_json=as_json)
        return
    server = chosen_server(model, nodes=model is None)
    if model is not None:
        left = ordered(server, console.say, do="stop", model=model)["models"]
        console.say(f"{console.mark('ok')} {model} is stopped; served: {', '.join(left)}")
    else:
        left = []
        _end(server, force=force)
        mark = console.mark("ok")
        if server.follower:
            console.say(f"{mark} the node, process {server.pid}, has stopped")
        else:
            console.say(f"{mark} the server, process {server.pid}, has stopped")
        for other in running():
            console.say(f"still running: {', '.join(other.models)}, process {other.pid}")
    if as_json:
        console.document("stop", {"pid": server.pid, "model": model, "models": left})


def _drain(typed: str, *, as_json: bool) -> None:
    """Have the server that asks a replica ask it nothing more, and wait until nothing runs there.

    Raises:
        UsageError: no server asks it, or it is the last that serves.
    """
    from llava_pack.serve.replicas.address import replica_address

    address = replica_address(typed).address
    server = next((one for one in running() if address in one.replicas), None) or chosen_server()
    left = ordered(server, console.say, do="drain", replica=address)["replicas"]
    console.say(f"{console.mark('ok')} {address} is asked nothing more; it can be stopped")
    if as_json:
        console.document("stop", {"replica": address, "replicas": left})


def _end(server: RunState, *, force: bool) -> None:
    """Tell a server to end and wait until nothing of it is left: memory, ports, GPU are free then.

    Raises:
        ServeError: it does not prove to be the server, or hangs in the kernel.
    """
    began_s = time.monotonic()
    due = list(_orders(server, force=force))
    tree = _Tree(server)
    while tree.lives():
        after_s, number = due[0]
        waited_s = time.monotonic() - began_s
        if waited_s < after_s:
            time.sleep(_LOOK_EVERY_S)
            continue
        if number is None:
            raise ServeError(
                f"process {server.pid} was killed but has not exited: it hangs in the kernel",
                hint="its driver may hang: see `dmesg`",
            )
        if number == signal.SIGKILL:
            console.say(f"! process {server.pid} did not stop: killing it")
            _kill(server, tree.known)
        else:
            _signal(server, number)
        due.pop(0)
    # What a killed one left, people's pictures among it; root goes to no folder that others name.
    if server.control and server.owner == os.geteuid():
        _clear(Path(server.control).parent)


class _Tree:
    """A server and every process that it started."""

    def __init__(self, server: RunState) -> None:
        self._server = server
        self.known: set[psutil.Process] = set()

    def lives(self) -> bool:
        """Say whether one of them is there; what is started meanwhile belongs to it."""
        serves = _runs(self._server)
        self.known.update(_family(self._server.pid) if serves else ())
        return serves or any(map(_lives, self.known))


def _lives(process: "psutil.Process") -> bool:
    """Say whether it is still there, and not only waiting for its parent to hear of its end."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _clear(folder: Path) -> None:
    """Remove a run's folder; what was killed with the server may hold on to it for a moment."""
    until_s = time.monotonic() + _CLEAR_S
    while folder.exists() and time.monotonic() < until_s:
        sweep(folder.parent)
        time.sleep(_LOOK_EVERY_S)


def _orders(server: RunState, *, force: bool) -> Iterator[tuple[float, signal.Signals | None]]:
    """Yield what a server is told and after how many seconds; at the end, nothing helps."""
    forced_s = _FORCE_AFTER_S if force else server.drain_s + server.term_s + _CLOSE_S
    yield 0.0, signal.SIGTERM
    yield forced_s, signal.SIGTERM
    yield forced_s + _KILL_AFTER_S, signal.SIGKILL
    yield forced_s + _KILL_AFTER_S + _LAST_S, None


def _runs(server: RunState) -> bool:
    """Say whether the process itself is there; it lets go of its state a little earlier."""
    if start_ticks(server.pid) is not None:
        return server.start_ticks is None or still(server.pid, server.start_ticks)
    return server.pid in {one.pid for one in running()}


def _signal(server: RunState, number: signal.Signals) -> None:
    """Signal the process that wrote a run state, and no other that has its number by now.

    Raises:
        ServeError: it does not prove to be that one, or belongs to another account.
    """
    try:
        with _held(server.pid) as send:
            _check(server)
            send(number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise ServeError(f"process {server.pid} belongs to another account") from error


@contextmanager
def _held(pid: int) -> Iterator[Callable[[signal.Signals], None]]:
    """Yield what signals a process; on Linux the one that has the number now, whatever follows."""
    if not hasattr(os, "pidfd_open"):
        yield lambda number: os.kill(pid, number)
        return
    descriptor = os.pidfd_open(pid)
    try:
        yield lambda number: signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def _check(server: RunState) -> None:
    """Have a process prove that it wrote the run state: by the kernel's word on user and start.

    A run state is a file. Of another account's, root asks for both; of this account's own, what an
    earlier version wrote adds no right that the account has not.

    Raises:
        ServeError: it does not.
    """
    if not sys.platform.startswith("linux"):
        return
    own = server.owner == os.geteuid()
    began = start_ticks(server.pid)
    if began is None:
        raise ProcessLookupError
    known = began == server.start_ticks or (own and server.start_ticks is None)
    if not (known and user_of(server.pid) == server.owner):
        raise ServeError(
            f"process {server.pid} could not be confirmed as the server: it is left alone",
            hint="stop it as the server's account, or with `systemctl stop`",
        )


def _kill(server: RunState, known: "Iterable[psutil.Process]" = ()) -> None:
    """Kill a server and what it started: that ends with it by itself on Linux alone.

    Only what runs as the server does: a program with more rights that it started is not ours.
    """
    import psutil

    family = {*known, *_family(server.pid)}
    _signal(server, signal.SIGKILL)
    for process in family:
        if not sys.platform.startswith("linux") or user_of(process.pid) == server.owner:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _family(pid: int) -> "list[psutil.Process]":
    import psutil

    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []
