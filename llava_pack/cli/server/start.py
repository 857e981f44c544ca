"""`llava-pack start`: a model, or a replica of the one there is, comes to a server that runs."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, Prefix
from llava_pack.cli.loading import ModelOptions
from llava_pack.cli.parameters import Ways, expanded, names_of
from llava_pack.cli.server.fronting import ReplicaOptions
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
    front: ReplicaOptions,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Serve another model, or have more replicas answer too.

    Running models are not interrupted. A replica that was stopped comes back with the key that it
    had.

    \b
    Examples:
      llava-pack start llava-v1.5-13b
      llava-pack start --replica gpu3:7860 --replica-key-file ~/front.key
      llava-pack start --model-path models/llava-v1.6-vicuna-7b --precision int8
    """
    if front.replica:
        _join(front.replica, front.replica_key_file, as_json=as_json)
        return
    plan = one_plan(recipe, options, prefix)
    from llava_pack.serve.supervision.control import plan_fields

    served = ordered(chosen_server(), console.say, do="start", plan=plan_fields(plan))["models"]
    tell_served("start", plan.name, served, as_json=as_json)


def _join(replicas: Sequence[str], key_file: Path | None, *, as_json: bool) -> None:
    """Have the running server ask more replicas, one after the other."""
    from llava_pack.serve.replicas.address import replica_address, replica_keys

    keys, server, asked = replica_keys(key_file), chosen_server(), {"replicas": ()}
    there = [replica_address(one, keys) for one in replicas]
    for one in there:
        asked = ordered(server, console.say, do="join", replica=one.address, key=one.key)
        console.say(f"{console.mark('ok')} {one.address} answers too")
    if as_json:
        console.document("start", {"replicas": list(asked["replicas"])})


def tell_served(kind: str, model: str, served: Sequence[str], *, as_json: bool) -> None:
    """Tell that a model is ready, beside which others."""
    console.say(f"{console.mark('ok')} {model} is ready; served: {', '.join(served)}")
    if as_json:
        console.document(kind, {"model": model, "models": list(served)})


def one_plan(recipe: str | None, options: ModelOptions, prefix: Path | None) -> "EnginePlan":
    """Return how the one model is loaded that is meant.

    Raises:
        UsageError: none is named.
        PackError: it cannot be served.
    """
    options.check_served()
    if recipe is None and options.model_path is None:
        raise UsageError(
            "expected one model: the name of an installed one, or a folder",
            hint="llava-pack generations; or --model-path DIR",
        )
    return options.plans(options.installed([recipe] if recipe else [], prefix))[0]
