"""`llava-pack start` and `swap`: models come to a server that runs, or change places there."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, Prefix
from llava_pack.cli.loading import ModelOptions
from llava_pack.cli.parameters import Ways, expanded, names_of
from llava_pack.cli.server.fronting import KeyFile
from llava_pack.client.discovery import chosen_server, ordered
from llava_pack.format.errors import UsageError

if TYPE_CHECKING:
    from llava_pack.serve.supervision.plans import EnginePlan

WAYS: Ways = {
    "replica": ("replica_key_file", "as_json"),
    "": ("recipe", *names_of(ModelOptions), "prefix", "as_json"),
}
Recipe = Annotated[str | None, typer.Argument(help="An installed model.")]


@partial(expanded, ways=WAYS)
def start(
    ctx: typer.Context,  # noqa: ARG001 - what was typed is looked at by name
    recipe: Recipe = None,
    *,
    options: ModelOptions,
    replica: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Another server of the running model: HOST:PORT or unix:PATH."
        ),
    ] = None,
    replica_key_file: KeyFile = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Serve another model beside the running ones, or have another replica answer too.

    Running models are not interrupted. A replica that was stopped comes back with the key that it
    had.

    \b
    Examples:
      llava-pack start llava-v1.5-13b
      llava-pack start --replica gpu3:7860 --replica-key-file ~/front.key
      llava-pack start --model-path models/llava-v1.6-vicuna-7b --precision int8
    """
    if replica is not None:
        _join(replica, replica_key_file, as_json=as_json)
        return
    plan = _plan(recipe, options, prefix)
    from llava_pack.serve.supervision.control import plan_fields

    served = ordered(chosen_server(), console.say, do="start", plan=plan_fields(plan))["models"]
    _tell("start", plan.name, served, as_json=as_json)


def _join(replica: str, key_file: Path | None, *, as_json: bool) -> None:
    """Have the running server ask one more replica."""
    from llava_pack.serve.replicas.address import replica_addresses, replica_keys

    (there,) = replica_addresses([replica], replica_keys(key_file))
    server = chosen_server()
    asked = ordered(server, console.say, do="join", replica=there.address, key=there.key)
    console.say(f"{console.mark('ok')} {there.address} answers too")
    if as_json:
        console.document("start", {"replica": there.address, "replicas": asked["replicas"]})


@expanded
def swap(
    model: Annotated[str, typer.Argument(help="The model to replace.")],
    recipe: Recipe = None,
    *,
    options: ModelOptions,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Replace a running model with another one.

    The running model is stopped first, because both may not fit in memory. If the new one cannot be
    started, the old one is restarted. Other models keep running.

    \b
    Examples:
      llava-pack swap llava-v1.5-7b llava-v1.5-13b
      llava-pack swap llava-v1.5-7b --model-path models/my-finetune-llava-v1.5
    """
    plan = _plan(recipe, options, prefix)
    from llava_pack.serve.supervision.control import plan_fields

    server = chosen_server(model)
    if server.network:
        raise UsageError(
            "several machines hold it, and a model that takes its place would be on this one alone",
            subject=model,
            hint="llava-pack stop; then llava-pack serve --nodes",
        )
    order = plan_fields(plan)
    served = ordered(server, console.say, do="swap", model=model, plan=order)["models"]
    _tell("swap", plan.name, served, as_json=as_json)


def _tell(kind: str, model: str, served: Sequence[str], *, as_json: bool) -> None:
    console.say(f"{console.mark('ok')} {model} is ready; served: {', '.join(served)}")
    if as_json:
        console.document(kind, {"model": model, "models": list(served)})


def _plan(recipe: str | None, options: ModelOptions, prefix: Path | None) -> "EnginePlan":
    options.check_served()
    if recipe is None and options.model_path is None:
        raise UsageError(
            "expected one model: the name of an installed one, or a folder",
            hint="llava-pack generations; or --model-path DIR",
        )
    return options.plans(options.installed([recipe] if recipe else [], prefix))[0]
