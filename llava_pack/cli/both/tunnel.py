"""`llava-pack tunnel`: open a tunnel to a server, or print there the lines that do."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson
from llava_pack.cli.parameters import Ways, expanded, names_of
from llava_pack.cli.server_side import need_server
from llava_pack.cli.ssh_options import SshOptions
from llava_pack.cli.unwinding import unwinding
from llava_pack.client.discovery import chosen_server
from llava_pack.format.errors import UsageError
from llava_pack.format.sums import pasted_id

if TYPE_CHECKING:
    from llava_pack.client.ssh import RemoteHost
    from llava_pack.client.ssh_tunnel import Remote

WAYS: Ways = {
    "destination": (
        *names_of(SshOptions),
        *("port", "socket", "token_file", "local_port", "expect", "check"),
    ),
    "": ("model", "reached_as", "as_json"),
}


@partial(expanded, ways=WAYS)
def tunnel(
    ctx: typer.Context,  # noqa: ARG001 - `expanded` looks at it
    *,
    destination: Annotated[
        str | None,
        typer.Argument(
            metavar="USER@HOST",
            help="For ssh. Without it: print the lines for this machine.",
        ),
    ] = None,
    ssh: SshOptions,
    port: Annotated[
        int | None,
        typer.Option(help="Port that `serve` listens on. Default: ask the server."),
    ] = None,
    socket: Annotated[str | None, typer.Option(help="Unix socket that `serve` listens on.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the server's token, if --port or --socket is given."),
    ] = None,
    local_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port on this laptop. Default: a free one.")
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(help="Id of the bundle that the server must be serving, or its first digits."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Open the tunnel, check it, and close it.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Without USER@HOST: the running server that has this model.")
    ] = None,
    reached_as: Annotated[
        str,
        typer.Option(
            help="Without USER@HOST: how your ssh reaches this server, for the lines: "
            "USER@HOST:PORT, or USER@BASTION,USER@HOST:PORT."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Open an ssh tunnel to a server, or show which hop fails.

    It uses your own ssh: it asks llava-pack on the server where it listens, picks a free port on
    this laptop, opens the tunnel and checks that the right server responds. Ctrl-C closes it. On
    the server, without USER@HOST, it prints the commands to paste on the laptop: run it in the ssh
    session that the tunnel will go through.

    \b
    Examples:
      llava-pack tunnel ada@gpu01 -p 30022
      llava-pack tunnel ada@gpu01 --jump ada@bastion --expect 4f1c0a2b
      llava-pack tunnel ada@gpu01 --check
      llava-pack tunnel
    """
    if destination is None:
        need_server("tunnel", hint="llava-pack tunnel USER@HOST -p PORT")
        _print_lines(model, reached_as, as_json=as_json)
        return
    from llava_pack.client.ssh import connected

    told = _told(port, socket, token_file)
    with unwinding(), connected(ssh.login(destination), console.say) as host:
        _open(host, told, local_port, expect, check=check)


def _print_lines(model: str | None, reached_as: str, *, as_json: bool) -> None:
    from llava_pack.client.discovery import this_endpoint
    from llava_pack.serve.supervision.announcement import announcement

    server = chosen_server(model)
    to = this_endpoint(server, reached_as)
    told = announcement(server, to, web=True)
    if as_json:
        fields = {"tunnel": told.tunnel, "page": told.page, "target": to.target}
        fields |= {"token": server.token, "bundle_id": server.bundle_id or ""}
        lists = {"placeholders": list(told.placeholders), "models": list(server.models)}
        console.document("tunnel", {**fields, **lists})
        return
    console.verbatim(told.tunnel)
    console.verbatim(told.page)
    for line in told.more:
        console.say(line)


def _told(port: int | None, socket: str | None, token_file: Path | None) -> "Remote | None":
    """Return what is reached as it was said; None to ask the server."""
    from llava_pack.client.ssh_tunnel import Remote

    if port is None and socket is None:
        if token_file is not None:
            raise UsageError(
                "the server itself is asked for its token",
                subject="--token-file",
                hint="leave it out, or pass --port or --socket too",
            )
        return None
    if port is not None and socket is not None:
        raise UsageError("pass --port or --socket, not both")
    token = ""
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError("the token file cannot be read", subject=str(token_file)) from error
    return Remote(target=socket or f"127.0.0.1:{port}", token=token, bundle_id=None)


def _open(
    host: "RemoteHost",
    told: "Remote | None",
    local_port: int | None,
    expect: str | None,
    *,
    check: bool,
) -> None:
    from llava_pack.client.ssh_tunnel import ask_server, free_port, opened

    remote = told or ask_server(host)
    here = free_port(local_port or remote.port, exactly=local_port is not None)
    with opened(host, remote, here) as passage:
        ready = passage.check(remote, pasted_id(expect) if expect else None)
        phases = ", ".join(f"{name} is {phase}" for name, phase in ready["models"].items())
        console.say(f"{console.mark('ok')} {host.login.destination}: {phases}")
        fragment = f"#token={remote.token}" if remote.token else ""
        console.verbatim(f"http://localhost:{here}/{fragment}")
        if check:
            return
        console.say("Ctrl-C closes the tunnel.")
        passage.wait()
