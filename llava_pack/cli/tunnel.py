"""`llava-pack tunnel`: the lines that open a tunnel to the server that runs here, once more."""

from typing import Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.target import AsJson
from llava_pack.format.errors import ServeError
from llava_pack.serve.state import RunState, running


def tunnel(
    model: Annotated[
        str | None, typer.Option(help="Of the servers that run here, the one with this model.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print again how a laptop reaches the server that runs on this machine.

    The host and the port are those of the ssh session that this runs in, so run it in the session
    that you would tunnel through.

    \b
    Examples:
      llava-pack tunnel
      llava-pack tunnel --json
    """
    from llava_pack.cli.serve import this_endpoint
    from llava_pack.serve.announcement import announcement

    server = _server(model)
    told = announcement(server, this_endpoint(server), web=True)
    if as_json:
        console.document("tunnel", {"tunnel": told.tunnel, "page": told.page})
        return
    console.data(told.tunnel)
    console.data(told.page)
    for line in told.more:
        console.say(line)


def _server(model: str | None) -> RunState:
    servers = running()
    for server in servers:
        if model is None or model in server.models:
            return server
    names = ", ".join(sorted({name for server in servers for name in server.models})) or "none"
    raise ServeError(
        f"no server {f'with the model {model!r} ' if model else ''}runs on this machine; "
        f"models that are served: {names}",
        hint="llava-pack serve",
    )
