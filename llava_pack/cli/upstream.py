"""`llava-pack serve` for a generation whose runtime is LLaVA's own code."""

import getpass
import os
import platform
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llava_pack.cli import console
from llava_pack.engine.fence.value import OFF, FenceMode, Standing
from llava_pack.format.errors import UsageError
from llava_pack.serve.plans import LoadOptions
from llava_pack.serve.state import RunState, directories, running

if TYPE_CHECKING:
    from llava_pack.cli.installed import Installation

_TOKEN_BYTES = 16
UNFENCED = "! no fence: what serves can open every file that you can, and any network"


def installed_upstream(prefix: Path | None, recipes: Sequence[str]) -> "Installation | None":
    """Return the installed model that is meant, where LLaVA's own code serves it; else None.

    A model of llava-pack's own engine is served from its own generation's environment: where the
    running one is LLaVA's, this process becomes that one's, and does not return.

    Raises:
        InstallError: nothing of that name is installed.
        UsageError: several models are asked for, and LLaVA's own code is to serve one of them.
    """
    from llava_pack.cli.installations import installations

    items = installations(prefix, recipes)
    own = [item for item in items if item.manifest.serving.engine == "upstream"]
    if own and len(items) > 1:
        raise UsageError(
            "LLaVA's own code serves one model at a time, and nothing beside it",
            subject=own[0].recipe,
            hint=f"llava-pack serve {own[0].recipe}, and the others with another --port",
        )
    if not own and find_spec("llava") is not None:
        python = str(items[0].venv_python)
        os.execv(python, [python, "-I", "-m", "llava_pack", *sys.argv[1:]])  # noqa: S606
    return own[0] if own else None


def serve_upstream(
    item: "Installation",
    load: LoadOptions,
    *,
    port: int,
    token: bool,
    fence: FenceMode,
    refused: Mapping[str, object],
    as_json: bool,
) -> int:
    """Start LLaVA's controller, worker and page, look after them, and return the exit code.

    Args:
        item: the installed generation.
        load: precision, device and slots, each None for the bundle's.
        port: of the page, on loopback; 0 takes a free one.
        token: whether the page and the programs ask for one.
        fence: whether one is raised around each program, and whether it has to be whole.
        refused: options that LLaVA's programs have no means for, by name; None or False where
            not given.
        as_json: announce as one JSON object.

    Raises:
        UsageError: an option asks for something that LLaVA's own code cannot do.
        IntegrityError: files do not look as they did when they were verified.
        ServeError: the port is taken, or a program ended; with its last words.
    """
    from llava_pack.cli.installations import plan_of
    from llava_pack.engine.upstream.files import model_files
    from llava_pack.engine.upstream.programs import (
        CPU_PRECISION,
        LOOPBACK,
        UpstreamModel,
        chosen_device,
    )
    from llava_pack.serve.listener import listen_on_port
    from llava_pack.serve.upstream import UpstreamPlan, run

    if wrong := [name for name, given in refused.items() if given]:
        raise UsageError(
            "LLaVA's own code has no such option: it listens on loopback and serves its own page",
            subject=", ".join(wrong),
            hint="leave it out, or build the bundle with llava-pack's engine",
        )
    where = chosen_device(load.device or item.manifest.serving.device)
    default = CPU_PRECISION if where == "cpu" else None
    wanted = replace(load, precision=load.precision or default, device=where)
    checked = plan_of(item, wanted, console.progress())
    with listen_on_port(LOOPBACK, port, running()) as held:
        taken = int(held.getsockname()[1])
    model = UpstreamModel(
        name=checked.name,
        model_dir=checked.model_dir,
        files=model_files(checked.model_dir),
        precision=checked.precision,
        device=where,
        slots=checked.slots,
        python=checked.python,
    )
    state = RunState(
        pid=os.getpid(),
        host=LOOPBACK,
        port=taken,
        token=secrets.token_urlsafe(_TOKEN_BYTES) if token else "",
        socket=None,
        models=(model.name,),
        started=int(time.time()),
        bundle_id=item.bundle_id,
    )
    if not token:
        console.say(f"! no token: every account on {platform.node()} can use this server")
    if fence == "off":
        console.say(UNFENCED)
    plan = UpstreamPlan(model=model, state=state, state_directory=directories()[0], fence=fence)
    return run(
        plan, lambda ready: _announce(ready, model.precision, as_json=as_json), console.progress()
    )


def _announce(state: RunState, precision: str, *, as_json: bool) -> None:
    """Tell that the page answers: the tunnel and the page as data, the rest as talk."""
    from llava_pack.engine.upstream.programs import USER
    from llava_pack.serve.tunnel import endpoint, tunnel_lines

    lines = tunnel_lines(
        endpoint(
            ssh_connection=os.environ.get("SSH_CONNECTION"),
            user=getpass.getuser(),
            hostname=platform.node(),
            host=state.host,
            port=state.port,
            socket=None,
        )
    )
    page = f"http://localhost:{state.port}/"
    for missing in _missing(state):
        console.say(f"! a fence is not whole: {missing}")
    if as_json:
        fields = {"url": state.url, "port": state.port, "pid": state.pid, "token": state.token}
        fields |= {"models": list(state.models), "bundle_id": state.bundle_id}
        fields |= {"runtime": "upstream", "controller": state.controller, "user": USER}
        console.document("serve", {**fields, "tunnel": lines.openssh, "page": page})
        return
    console.say(f"{console.mark('ok')} {state.models[0]}: {precision}, LLaVA's own code")
    console.say("\nOn your laptop (Linux, macOS, Windows PowerShell) run:")
    console.data(lines.openssh)
    console.say("and open:")
    console.data(page)
    if state.token:
        console.say(f"log in as {USER} with the password {state.token}")
    console.say(f"\nThrough a bastion:\n  {lines.bastion}")
    console.say(f"\nLLaVA's controller, for its own clients: {state.controller}")
    console.say("\nCtrl-C stops it.")


def _missing(state: RunState) -> list[str]:
    """Return which fences stand, as far as they are neither whole nor switched off; each once."""
    stand = (Standing.from_wire(told) for told in state.fences.values())
    return sorted({str(one) for one in stand if one and one != OFF and not one.whole})
