"""`llava-pack serve`: one supervised command for everything that answers."""

import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, KeepEnv, Prefix
from llava_pack.cli.loading import ModelOptions, tell_left_out
from llava_pack.cli.parameters import expanded, refuse_options
from llava_pack.cli.server.following import join_head
from llava_pack.cli.server.fronting import ReplicaOptions
from llava_pack.cli.server.nodes import OF_JOIN, NodeOptions, meeting_of, spread_over, tell_nodes
from llava_pack.cli.server.serving import ServerOptions
from llava_pack.serve.run_state import RunState, directories

if TYPE_CHECKING:
    from llava_pack.engine.port import EngineInfo
    from llava_pack.serve.access.credentials import ServeCredentials
    from llava_pack.serve.subprocesses import EngineCommand
    from llava_pack.serve.supervision.plans import EnginePlan
    from llava_pack.serve.supervision.supervisor import ServePlan


@expanded
def serve(
    ctx: typer.Context,
    recipes: Annotated[
        list[str] | None,
        typer.Argument(help="Installed models to serve. Default: the most recently activated one."),
    ] = None,
    *,
    options: ModelOptions,
    server: ServerOptions,
    front: ReplicaOptions,
    nodes: NodeOptions,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", help="Serve in the background, also after you log out; wait until ready."
        ),
    ] = False,
    keep_env: KeepEnv = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model: web page and OpenAI-compatible API.

    Page, API and probes share one port, on loopback; the printed commands open an ssh tunnel from
    your laptop. Behind a proxy, --public-url says where people open it. Ctrl-C lets running
    requests finish; press it again to cancel them. An engine that dies or hangs is restarted. With
    --detach it goes on when you log out; run again, it reports the server that is running.
    `llava-pack status`, `logs`, `start`, `swap` and `stop` manage a running server. No network is
    needed, and none is used. With --nodes several machines hold one model, if the bundle's engine
    can do that: it prints what to run on the others. Root may not serve an installed model without
    --as-root; `llava-pack service install --account NAME` serves it from its own account.

    \b
    Examples:
      llava-pack serve
      llava-pack serve --detach
      llava-pack serve --port 7861 --no-web
      llava-pack serve --socket ~/llava.sock
      llava-pack serve --public-url https://llava.corp/vlm --trusted-proxy 127.0.0.1
      llava-pack serve --model-path models/llava-v1.5-7b --load-4bit
      llava-pack serve --replica gpu1:7860 --replica gpu2:7860 --replica-key-file ~/front.key
      llava-pack serve --nodes 2 --address 10.0.0.1
    """
    from llava_pack.cli.server.asked import asked_for
    from llava_pack.cli.server.detached import serve_detached
    from llava_pack.cli.server.engines import check_engines
    from llava_pack.cli.server.runtimes import UNFENCED, other_runtime, serve_other

    if nodes.join is not None:
        names = {str(one.name) for one in ctx.command.params}
        refuse_options(ctx, names - OF_JOIN, "has no meaning with --join")
    options.check_served()
    if options.model_path is None:
        server.refuse_root()
    alone = front.alone(recipes or [], options)
    items = () if alone else options.installed(recipes or [], prefix)
    tell_left_out()
    asked = asked_for(options, items, server, front, nodes)
    if keep_env:
        asked["keep_env"] = " ".join(keep_env)
    if (meeting := meeting_of(nodes, items, recipes or [], server.fence_mode)) is not None:
        tell_nodes(meeting, as_json=as_json)
    if detach:
        serve_detached(asked, server.reached_as, as_json=as_json)
        return
    if nodes.join is not None:
        raise typer.Exit(join_head(nodes, options, items, asked))
    if items and (other := other_runtime(items)) is not None:
        raise typer.Exit(serve_other(ctx, other, options.load, server.fence_mode, asked))
    plans = [] if alone else options.plans(items)
    check_engines(plans, server.fence_mode)
    from llava_pack.serve.supervision.supervisor import run

    bundle_id = items[0].bundle_id if items else None
    plan = serve_plan(plans, bundle_id, server, front, asked)
    if meeting is not None:
        plan = spread_over(plan, meeting)
    if not server.token:
        console.say(f"! no token: every account on {platform.node()} can use this server")
    if not server.fence:
        console.say(UNFENCED)
    with console.outliving():
        code = run(
            plan,
            lambda infos: _announce(plan.state, infos, web=server.web, as_json=as_json),
            console.progress(),
        )
    raise typer.Exit(code)


def serve_plan(
    plans: "list[EnginePlan]",
    bundle_id: str | None,
    server: ServerOptions,
    front: ReplicaOptions,
    asked: Mapping[str, str],
) -> "ServePlan":
    """Return the run that the options ask for; what it listens on is taken.

    Raises:
        UsageError: a name of a model cannot be given.
        PackError: a file of keys, the address or the port cannot be had, or a replica is none.
    """
    from llava_pack.cli.server.proof import proof_of
    from llava_pack.serve.aliases import aliases_of
    from llava_pack.serve.logfile import log_path
    from llava_pack.serve.supervision.supervisor import ServePlan
    from llava_pack.serve.supervision.systemd import Notifier

    directory = directories()[0]
    allowed = server.credentials(directory)
    audit, pictures = server.audit(directory), server.pictures
    listening = server.listen()
    port = server.port if server.socket else listening.getsockname()[1]
    try:
        replicas = front.plan(tuple(plan.name for plan in plans), bundle_id, server, port)
        models = tuple(plan.name for plan in plans) or replicas.models
        aliases = aliases_of(server.served_model_name or (), models)
    except BaseException:
        server.let_go(listening)
        raise
    return ServePlan(
        listening=listening,
        plans=tuple(plans),
        fence=server.fence_mode,
        command=_command(server, directory),
        prover=proof_of,
        care=server.care,
        policy=allowed.policy,
        audit=audit,
        state=replace(
            _state(server, allowed, log_path(directory)),
            port=port,
            models=models,
            bundle_id=bundle_id or replicas.bundle_id,
            asked=asked,
            replicas=replicas.addresses,
        ),
        state_directory=directory,
        web=server.web,
        picture_root=pictures,
        aliases=aliases,
        log=log_path(directory),
        notifier=Notifier.from_environment(os.environ),
        replicas=replicas,
    )


def _command(server: ServerOptions, directory: Path) -> "partial[EngineCommand]":
    """Return what makes the command of an engine, from its plan and its socket."""
    from llava_pack.serve.supervision.commands import compiled_path, engine_command

    return partial(
        engine_command,
        fence=server.fence_mode,
        pycache=sys.pycache_prefix,
        compiled=compiled_path(directory),
    )


def _state(server: ServerOptions, allowed: "ServeCredentials", log: Path) -> RunState:
    """Return what is told of a run, as far as it follows from the server's options."""
    return RunState(
        pid=os.getpid(),
        host=server.host,
        port=server.port,
        token=allowed.token,
        keeps_token=server.keep_token,
        socket=str(server.socket_path) if server.socket else None,
        models=(),
        started=int(time.time()),
        bundle_id=None,
        log=str(log),
        drain_s=server.drain_s,
        llava_path=allowed.policy.llava_path,
        public_url=allowed.policy.name.url,
        reached_as=server.reached_as,
    )


def _announce(
    state: RunState, infos: "tuple[EngineInfo, ...]", *, web: bool, as_json: bool
) -> None:
    """Tell that it is ready: the tunnel and the page as data, the rest as talk."""
    from llava_pack.client.discovery import this_endpoint
    from llava_pack.serve.supervision.announcement import announcement, ready_lines, run_fields

    told = announcement(state, this_endpoint(state), web=web)
    if as_json:
        console.document("serve", run_fields(state, told))
        return
    for line in ready_lines(state, infos):
        console.say(f"{console.mark('ok')} {line}")
    if state.public_url:
        console.say("\nOpen:")
        console.verbatim(told.page)
        console.say("or, on your laptop (Linux, macOS, Windows PowerShell), run:")
        console.verbatim(told.tunnel)
    else:
        console.say("\nOn your laptop (Linux, macOS, Windows PowerShell) run:")
        console.verbatim(told.tunnel)
        console.say("and open:")
        console.verbatim(told.page)
    for line in told.more:
        console.say(line)
    console.say("\nPress Ctrl-C to stop the server.")
