"""`llava-pack stop`: end a server that runs on this machine, or one of its models."""

import os
import signal
import time
from typing import Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.servers import chosen_server, ordered
from llava_pack.cli.target import AsJson
from llava_pack.format.errors import ServeError
from llava_pack.serve.state import RunState, running

_LOOK_EVERY_S = 0.1
_LONGEST_S = 600.0
_FORCE_AFTER_S = 0.5


def stop(
    model: Annotated[
        str | None, typer.Argument(help="One model; without it, the whole server.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Cut off what runs.")] = False,
    as_json: AsJson = False,
) -> None:
    """End the server that was started last, or one of its models; the others go on.

    What runs may end first, as long as `serve --drain-s` says.

    \b
    Examples:
      llava-pack stop
      llava-pack stop llava-v1.5-13b
      llava-pack stop --force
    """
    server = chosen_server(model)
    if model is not None:
        left = ordered(server, do="stop", model=model)["models"]
        console.say(f"{console.mark('ok')} {model} is stopped; served: {', '.join(left)}")
    else:
        left = []
        _end(server, force=force)
        console.say(f"{console.mark('ok')} the server, process {server.pid}, has ended")
    if as_json:
        console.document("stop", {"pid": server.pid, "model": model, "models": left})


def _end(server: RunState, *, force: bool) -> None:
    """Tell a server to end and wait until it has; its lock on its state says so."""
    began_s = time.monotonic()
    forced = not force
    _signal(server)
    while server.pid in {one.pid for one in running()}:
        waited_s = time.monotonic() - began_s
        if not forced and waited_s > _FORCE_AFTER_S:
            forced = True
            _signal(server)
        if waited_s > _LONGEST_S:
            raise ServeError(
                f"process {server.pid} has not ended after {waited_s:.0f} s",
                hint="llava-pack stop --force",
            )
        time.sleep(_LOOK_EVERY_S)


def _signal(server: RunState) -> None:
    try:
        os.kill(server.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise ServeError(f"process {server.pid} belongs to another account") from error
