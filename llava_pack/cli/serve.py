"""`llava-pack serve`: one supervised command for everything that answers."""

import getpass
import os
import platform
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.target import AsJson, Prefix
from llava_pack.format.errors import ServeError, UsageError
from llava_pack.format.precision import FACTS, PRECISION_CHOICES, QUANTIZED
from llava_pack.serve.state import RunState, directories, running

if TYPE_CHECKING:
    from socket import socket as socket_type

    from llava_pack.engine.fence.value import FenceMode
    from llava_pack.engine.port import EngineInfo
    from llava_pack.serve.plans import EnginePlan, LoadOptions
    from llava_pack.serve.tunnel import Endpoint

_Folder = Path | None
_Text = str | None


def serve(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(help="Installed models to serve. Default: the one activated last."),
    ] = None,
    model_path: Annotated[
        _Folder, typer.Option("--model-path", help="A checkpoint's folder, installed or not.")
    ] = None,
    vision_tower: Annotated[
        _Folder, typer.Option(help="The vision tower's folder, where the checkpoint does not say.")
    ] = None,
    model_base: Annotated[
        _Folder, typer.Option(help="What an adapter or a projector was trained on.")
    ] = None,
    precision: Annotated[
        _Text, typer.Option(help="fp32, fp16, bf16, int8 or nf4. Default: the bundle's.")
    ] = None,
    load_4bit: Annotated[bool, typer.Option("--load-4bit", help="Same as nf4.")] = False,
    load_8bit: Annotated[bool, typer.Option("--load-8bit", help="Same as int8.")] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Requests that are answered at once.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=16, help="Longest prompt with its answer, in tokens.")
    ] = None,
    conv_mode: Annotated[
        _Text, typer.Option(help="Conversation template, in place of the model's own.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 7860,
    socket: Annotated[
        _Folder, typer.Option(help="Listen on a Unix socket that only you can open, not a port.")
    ] = None,
    token: Annotated[
        bool, typer.Option("--token/--no-token", help="Ask for the token of this start.")
    ] = True,
    api_key_file: Annotated[
        _Folder, typer.Option(help="Keys without names that are accepted too, one a line.")
    ] = None,
    keys: Annotated[
        _Folder,
        typer.Option(help="Keys of people, in another file than `llava-pack keys` writes to."),
    ] = None,
    audit_to: Annotated[
        str, typer.Option(help="Where it says who asked: file, journal, syslog or off.")
    ] = "file",
    audit_size_mb: Annotated[
        int, typer.Option(min=1, help="Size at which the audit log's file is put aside.")
    ] = 16,
    audit_keep: Annotated[
        int, typer.Option(min=0, help="Files of the audit log that are kept beside the current.")
    ] = 8,
    web: Annotated[bool, typer.Option("--web/--no-web", help="Serve the page at /.")] = True,
    queue: Annotated[
        int, typer.Option(min=0, help="Requests of a model that may wait for a slot.")
    ] = 256,
    drain_s: Annotated[
        float, typer.Option(min=0, help="Seconds that what runs gets when it is told to end.")
    ] = 30.0,
    stall_s: Annotated[
        float, typer.Option(min=1, help="Seconds that one step of an engine may take.")
    ] = 60.0,
    as_root: Annotated[
        bool,
        typer.Option(
            "--as-root", envvar="LLAVA_PACK_AS_ROOT", help="Serve what is installed as root, too."
        ),
    ] = False,
    fence: Annotated[
        bool,
        typer.Option("--fence/--no-fence", help="Keep what serves from other files and networks."),
    ] = True,
    require_fence: Annotated[
        bool,
        typer.Option("--require-fence", help="Do not serve where the kernel cannot hold a fence."),
    ] = False,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model: the page, the OpenAI-compatible API and the probes, behind one port.

    It listens on loopback; the lines that it prints open an ssh tunnel from your laptop. Ctrl-C
    lets what runs end, a second one ends at once. An engine that dies or hangs is started again;
    `llava-pack status`, `logs`, `start`, `swap` and `stop` look after a server that runs. No
    network is needed, and none is used. Root does not serve what is installed, unless --as-root
    says so: `llava-pack service install --account NAME` has an account of its own do it.

    \b
    Examples:
      llava-pack serve
      llava-pack serve --port 7861 --no-web
      llava-pack serve --socket ~/llava.sock
      llava-pack serve --model-path models/llava-v1.5-7b --load-4bit
    """
    from llava_pack.cli.upstream import UNFENCED, installed_upstream, serve_upstream
    from llava_pack.serve.plans import LoadOptions, engine_command

    if conv_mode == "raw":
        raise UsageError(
            "it would let everybody's text become special tokens", subject="--conv-mode raw"
        )
    fence_mode = chosen_fence(fence=fence, required=require_fence)
    chosen = chosen_precision(precision, load_4bit=load_4bit, load_8bit=load_8bit)
    if model_path is None:
        _refuse_root(as_root=as_root)
    if model_path is None and (own := installed_upstream(prefix, recipes or [])) is not None:
        refused: dict[str, object] = {"--vision-tower": vision_tower, "--model-base": model_base}
        refused |= {"--context": context, "--conv-mode": conv_mode, "--socket": socket}
        refused |= {"--host": host != "127.0.0.1", "--no-web": not web}
        refused |= {"--api-key-file": api_key_file, "--keys": keys}
        load = LoadOptions(precision=chosen, device=device, slots=slots)
        raise typer.Exit(
            serve_upstream(
                own,
                load,
                port=port,
                token=token,
                fence=fence_mode,
                refused=refused,
                as_json=as_json,
            )
        )
    _need_extra(web=web)
    from llava_pack.cli.proof import proof_of
    from llava_pack.serve.audit import AuditPlan, audit_path, destination
    from llava_pack.serve.care import Care
    from llava_pack.serve.credentials import credentials
    from llava_pack.serve.key_store import store_path
    from llava_pack.serve.logfile import log_path
    from llava_pack.serve.notify import Notifier
    from llava_pack.serve.supervisor import ServePlan, run

    options = LoadOptions(
        vision_tower=vision_tower.expanduser().absolute() if vision_tower else None,
        model_base=model_base.expanduser().absolute() if model_base else None,
        precision=chosen,
        device=device,
        slots=slots,
        context_tokens=context,
        conv_mode=conv_mode,
    )
    plans, bundle_id = plans_of(model_path, recipes or [], prefix, options)
    path = socket.expanduser().absolute() if socket else None
    directory = directories()[0]
    allowed = credentials(
        "localhost" if path else host,
        token=token,
        key_file=api_key_file,
        key_store=keys.expanduser().absolute() if keys else store_path(directory),
    )
    audit = AuditPlan(
        to=destination(audit_to),
        path=str(audit_path(directory)),
        max_mb=audit_size_mb,
        keep=audit_keep,
    )
    listening = _listen(host, port, path)
    log = log_path(directory)
    state = RunState(
        pid=os.getpid(),
        host=host,
        port=port if path else listening.getsockname()[1],
        token=allowed.token,
        socket=str(path) if path else None,
        models=tuple(plan.name for plan in plans),
        started=int(time.time()),
        bundle_id=bundle_id,
        log=str(log),
        drain_s=drain_s,
        llava_path=allowed.policy.llava_path,
    )
    if not token:
        console.say(f"! no token: every account on {platform.node()} can use this server")
    if not fence:
        console.say(UNFENCED)
    code = run(
        ServePlan(
            listening=listening,
            plans=tuple(plans),
            fence=fence_mode,
            command=partial(engine_command, fence=fence_mode, pycache=sys.pycache_prefix),
            prover=proof_of,
            care=Care(stall_s=stall_s, queue=queue),
            policy=allowed.policy,
            audit=audit,
            state=state,
            state_directory=directory,
            web=web,
            log=log,
            notifier=Notifier.from_environment(os.environ),
        ),
        lambda infos: _announce(state, infos, web=web, as_json=as_json),
        console.progress(),
    )
    raise typer.Exit(code)


def _refuse_root(*, as_root: bool) -> None:
    """Refuse to serve as root, for what reads strangers' requests needs none of root's rights.

    Raises:
        UsageError: it is root, and nobody said that it may be.
    """
    if os.geteuid() != 0:
        return
    if not as_root:
        raise UsageError(
            "root does not serve: whoever got into the server would be root",
            subject="serve",
            hint="llava-pack service install --system --account NAME has an account of its own "
            "serve; where everything is root, in a container, say: llava-pack serve --as-root",
        )
    console.say("! it serves as root: whoever got into the server would be root")


def quantized_by(*, load_4bit: bool, load_8bit: bool) -> set[str]:
    """Return the precisions that LLaVA's own options name.

    >>> quantized_by(load_4bit=True, load_8bit=False)
    {'nf4'}
    """
    asked = {4: load_4bit, 8: load_8bit}
    return {name for name in QUANTIZED if asked[FACTS[name].bits]}


def chosen_precision(precision: str | None, *, load_4bit: bool, load_8bit: bool) -> str | None:
    """Return the one precision that the options name, None where they name none."""
    named = quantized_by(load_4bit=load_4bit, load_8bit=load_8bit)
    named |= {precision} if precision else set()
    if len(named) > 1:
        raise UsageError(
            f"more than one precision is asked for: {', '.join(sorted(named))}",
            subject="--precision",
            hint="give one of --precision, --load-4bit and --load-8bit",
        )
    if unknown := named.difference(PRECISION_CHOICES):
        raise UsageError(
            f"expected one of {', '.join(sorted(PRECISION_CHOICES))}, got {', '.join(unknown)}",
            subject="--precision",
            hint="leave it out to serve in the bundle's own",
        )
    return next(iter(named), None)


def chosen_fence(*, fence: bool, required: bool) -> "FenceMode":
    """Return whether a fence is raised around what serves, and whether it has to be whole."""
    if required and not fence:
        raise UsageError("they contradict each other", subject="--no-fence and --require-fence")
    if required:
        return "required"
    return "on" if fence else "off"


def _need_extra(*, web: bool) -> None:
    needed = ["fastapi", "uvicorn", "torch", "transformers", *(["gradio"] if web else [])]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ServeError(
            f"this installation has no {', '.join(missing)}, which serving needs",
            hint="pip install '.[serve]' in a clone of llava-pack",
        )


def plans_of(
    model_path: Path | None, recipes: list[str], prefix: Path | None, options: "LoadOptions"
) -> tuple[list["EnginePlan"], str | None]:
    """Return the models to serve and, for installed ones, the id of the first one's bundle."""
    from llava_pack.serve.plans import folder_plan

    if model_path is not None:
        if recipes:
            raise UsageError(
                "a folder and installed models cannot be served together",
                subject="--model-path",
                hint="leave out --model-path, or the models' names",
            )
        return [folder_plan(model_path.expanduser().absolute(), options)], None
    if options.vision_tower is not None:
        raise UsageError("an installed model brings its own tower", subject="--vision-tower")
    if options.model_base is not None:
        raise UsageError("an installed model brings its own base", subject="--model-base")
    from llava_pack.cli.installations import installations, plan_of

    found = installations(prefix, recipes)
    return [plan_of(item, options, console.progress()) for item in found], found[0].bundle_id


def _listen(host: str, port: int, path: Path | None) -> "socket_type":
    from llava_pack.serve.listener import listen_on_port, listen_on_socket

    return listen_on_socket(path) if path else listen_on_port(host, port, running())


def this_endpoint(state: RunState) -> "Endpoint":
    """Return how a laptop reaches a server, seen from the ssh session of this process."""
    from llava_pack.serve.tunnel import endpoint

    return endpoint(
        ssh_connection=os.environ.get("SSH_CONNECTION"),
        user=getpass.getuser(),
        hostname=platform.node(),
        host=state.host,
        port=state.port,
        socket=state.socket,
    )


def _announce(
    state: RunState, infos: "tuple[EngineInfo, ...]", *, web: bool, as_json: bool
) -> None:
    """Tell that it is ready: the tunnel and the page as data, the rest as talk."""
    from llava_pack.serve.announcement import announcement, ready_lines

    told = announcement(state, this_endpoint(state), web=web)
    if as_json:
        fields = {"url": state.url, "port": state.port, "socket": state.socket, "pid": state.pid}
        fields |= {"token": state.token, "models": list(state.models), "bundle_id": state.bundle_id}
        fields |= {"controller": f"{state.url}{state.llava_path}"}
        console.document("serve", {**fields, "tunnel": told.tunnel, "page": told.page})
        return
    for line in ready_lines(state, infos):
        console.say(f"{console.mark('ok')} {line}")
    console.say("\nOn your laptop (Linux, macOS, Windows PowerShell) run:")
    console.data(told.tunnel)
    console.say("and open:")
    console.data(told.page)
    for line in told.more:
        console.say(line)
    console.say("\nCtrl-C stops it.")
