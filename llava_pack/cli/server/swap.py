"""`llava-pack swap`: a model takes the place of another one in a server that runs."""

from typing import Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, Prefix
from llava_pack.cli.loading import ModelOptions
from llava_pack.cli.parameters import expanded
from llava_pack.cli.server.start import Recipe, one_plan, tell_served
from llava_pack.client.discovery import chosen_server, ordered
from llava_pack.format.errors import UsageError
from llava_pack.serve.run_state import serving


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
    if any(model in server.models and server.network for server in serving()):
        raise UsageError(
            "several machines hold it, and a model that takes its place would be on this one alone",
            subject=model,
            hint="llava-pack stop; then llava-pack serve --nodes",
        )
    plan = one_plan(recipe, options, prefix)
    from llava_pack.serve.supervision.control import plan_fields

    server, order = chosen_server(model), plan_fields(plan)
    served = ordered(server, console.say, do="swap", model=model, plan=order)["models"]
    tell_served("swap", plan.name, served, as_json=as_json)
