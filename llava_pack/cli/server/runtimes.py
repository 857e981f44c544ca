"""`llava-pack serve` for a generation whose runtime is not llava-pack's own engine."""

import os
import platform
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llava_pack.cli import console
from llava_pack.engine.fence.value import OFF, FenceMode, Standing
from llava_pack.format.errors import InstallError, UsageError, reason_of
from llava_pack.health.runtimes import RuntimePlan, ServingRuntime, serving_runtime
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.access.kept_token import kept_token, token_path
from llava_pack.serve.run_state import RunState, directories, running
from llava_pack.serve.supervision.plans import LoadOptions

if TYPE_CHECKING:
    from llava_pack.installation.installed import Installation

_TOKEN_BYTES = 16
_LOOPBACK = "127.0.0.1"
_NOT_GIVEN = frozenset({"DEFAULT", "DEFAULT_MAP"})
UNFENCED = "! no fence: the server can open every file that you can, and any network"
OF_SERVE = frozenset(
    {
        "recipes",
        "model_path",
        "prefix",
        "as_root",
        "as_json",
        "detach",
        "keep_env",
        "keep_token",
        "reached_as",
    }
)
"""Parameters that `serve` honours by itself, whatever the runtime."""


@dataclass(frozen=True)
class OtherRuntime:
    """An installed model, and what serves it instead of llava-pack's own engine."""

    item: "Installation"
    runtime: ServingRuntime

    @property
    def title(self) -> str:
        """The runtime as people are told of it."""
        return RUNTIMES[self.item.manifest.serving.engine].title

    def loading(self, load: LoadOptions) -> LoadOptions:
        """Return what was asked for as the runtime can have it: its device, its precision there."""
        profile = self.item.manifest.serving
        device = self.runtime.device(load.device or profile.device)
        only = RUNTIMES[profile.engine].cpu_precision if device == "cpu" else None
        return replace(load, device=device, precision=load.precision or only)


def other_runtime(items: "Sequence[Installation]") -> OtherRuntime | None:
    """Return the installed model that is meant, where another runtime serves it; else None.

    Another runtime is started by its own generation's llava-pack, and llava-pack's engine not from
    another runtime's environment: elsewhere this process becomes that one's, and does not return.

    Raises:
        InstallError: the generation's Python cannot be started.
        UsageError: several models are asked for, and another runtime is to serve one of them.
    """
    found = [(item, serving_runtime(item.manifest.serving.engine)) for item in items]
    others = [OtherRuntime(item, runtime) for item, runtime in found if runtime is not None]
    if others and len(items) > 1:
        recipe = others[0].item.recipe
        raise UsageError(
            f"{others[0].title} serves only one model per server",
            subject=recipe,
            hint=f"llava-pack serve {recipe}, and the others with another --port",
        )
    packages = [one.package for one in RUNTIMES.values() if one.package]
    if others or any(map(find_spec, packages)):
        _move_to(items[0].venv_python)
    return others[0] if others else None


def _move_to(python: Path) -> None:
    """Go on as the same command in an environment, unless this process runs there."""
    try:
        if not Path(sys.prefix).samefile(python.parent.parent):
            os.execv(python, [str(python), "-I", "-m", "llava_pack", *sys.argv[1:]])  # noqa: S606
    except OSError as error:
        raise InstallError(
            f"its Python cannot be started: {reason_of(error)}",
            subject=str(python),
            hint="llava-pack health --deep",
        ) from error


def refused(ctx: typer.Context, runtime: ServingRuntime) -> Iterator[str]:
    """Yield the options that were given to `serve` and that a runtime has no means for.

    An option that nobody thought of for a runtime is among them.
    """
    for option in ctx.command.params:
        name = str(option.name)
        source, value = ctx.get_parameter_source(name), ctx.params.get(name)
        given = source is not None and source.name not in _NOT_GIVEN
        as_ever = name in runtime.fixed and value == runtime.fixed[name]
        if given and not as_ever and name not in OF_SERVE | runtime.honoured:
            yield ((value is False and option.secondary_opts) or option.opts)[0]


def serve_other(
    ctx: typer.Context,
    other: OtherRuntime,
    load: LoadOptions,
    fence: FenceMode,
    asked: Mapping[str, str],
) -> int:
    """Start what serves an installed model, look after it, and return the exit code.

    Raises:
        UsageError: an option asks for something that the runtime cannot do.
        IntegrityError: files do not look as they did when they were verified.
        ServeError: the port is taken, or a program ended; with its last words.
    """
    if names := tuple(refused(ctx, other.runtime)):
        raise UsageError(
            f"{other.title} has no such option",
            subject=", ".join(names),
            hint="leave it out, or build the bundle with llava-pack's engine",
        )
    plan = planned(other, load, fence, port=ctx.params["port"], token=ctx.params["token"])
    told = {"asked": asked, "reached_as": ctx.params["reached_as"]}
    if ctx.params["keep_token"]:
        told |= {"token": kept_token(token_path(plan.state_directory)).token, "keeps_token": True}
    plan = replace(plan, state=replace(plan.state, **told))
    if not plan.state.token:
        console.say(f"! no token: every account on {platform.node()} can use this server")
    if fence == "off":
        console.say(UNFENCED)

    def announce(state: RunState) -> None:
        _announce(other, state, plan.engine.precision, as_json=ctx.params["as_json"])

    with console.outliving():
        return other.runtime.serve(plan, announce, console.progress())


def planned(
    other: OtherRuntime, load: LoadOptions, fence: FenceMode, *, port: int, token: bool
) -> RuntimePlan:
    """Return the run that is asked for; its port was free.

    Raises:
        IntegrityError: files do not look as they did when they were verified.
        ServeError: the port is taken.
    """
    from llava_pack.installation.plans import plan_of
    from llava_pack.serve.supervision.listener import listen_on_port

    engine = plan_of(other.item, other.loading(load), console.progress())
    with listen_on_port(_LOOPBACK, port, running()) as held:
        free = int(held.getsockname()[1])
    state = RunState(
        pid=os.getpid(),
        host=_LOOPBACK,
        port=free,
        token=secrets.token_urlsafe(_TOKEN_BYTES) if token else "",
        socket=None,
        models=(engine.name,),
        started=int(time.time()),
        bundle_id=other.item.bundle_id,
    )
    return RuntimePlan(engine=engine, state=state, state_directory=directories()[0], fence=fence)


def _announce(other: OtherRuntime, state: RunState, precision: str, *, as_json: bool) -> None:
    """Tell that the page answers: the tunnel and the page as data, the rest as talk."""
    from llava_pack.client.discovery import this_endpoint
    from llava_pack.serve.tunnel_lines import tunnel_lines

    lines = tunnel_lines(this_endpoint(state))
    page = f"http://localhost:{state.port}/"
    for missing in _missing(state):
        console.say(f"! a fence is incomplete: {missing}")
    if as_json:
        fields = {"url": state.url, "port": state.port, "pid": state.pid, "token": state.token}
        fields |= {"models": list(state.models), "bundle_id": state.bundle_id}
        fields |= {"runtime": other.item.manifest.serving.engine, **other.runtime.fields(state)}
        console.document("serve", {**fields, "tunnel": lines.openssh, "page": page})
        return
    console.say(f"{console.mark('ok')} {state.models[0]}: {precision}, {other.title}")
    console.say("\nOn your laptop (Linux, macOS, Windows PowerShell) run:")
    console.verbatim(lines.openssh)
    console.say("and open:")
    console.verbatim(page)
    for line in other.runtime.lines(state):
        console.say(line)
    if lines.bastion:
        console.say(f"\nThrough a bastion:\n  {lines.bastion}")
    console.say("\nPress Ctrl-C to stop the server.")


def _missing(state: RunState) -> list[str]:
    """Return which fences stand, as far as they are neither whole nor switched off; each once."""
    stand = (Standing.from_wire(told) for told in state.fences.values())
    return sorted({str(one) for one in stand if one and one != OFF and not one.whole})
