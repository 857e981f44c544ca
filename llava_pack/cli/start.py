"""`llava-pack start` and `swap`: models come to a server that runs, or change places there."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.serve import chosen_precision, plans_of
from llava_pack.cli.servers import chosen_server, ordered
from llava_pack.cli.target import AsJson, Prefix
from llava_pack.format.errors import UsageError

if TYPE_CHECKING:
    from llava_pack.serve.plans import EnginePlan

_Folder = Path | None
_Text = str | None
_RECIPE = typer.Argument(help="An installed model.")
_MODEL_PATH = typer.Option("--model-path", help="A checkpoint's folder, installed or not.")
_TOWER = typer.Option(help="The vision tower's folder, where the checkpoint does not say.")
_PRECISION = typer.Option(help="fp32, fp16, bf16, int8 or nf4. Default: the bundle's.")
_DEVICE = typer.Option(help="auto, cpu, cuda or mps.")
_SLOTS = typer.Option(min=1, help="Requests that are answered at once.")


def start(
    recipe: Annotated[_Text, _RECIPE] = None,
    model_path: Annotated[_Folder, _MODEL_PATH] = None,
    vision_tower: Annotated[_Folder, _TOWER] = None,
    precision: Annotated[_Text, _PRECISION] = None,
    device: Annotated[_Text, _DEVICE] = None,
    slots: Annotated[int | None, _SLOTS] = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Serve one more model on the server that runs; the others go on meanwhile.

    \b
    Examples:
      llava-pack start llava-v1.5-13b
      llava-pack start --model-path models/llava-v1.6-vicuna-7b --precision int8
    """
    plan = _plan(recipe, model_path, vision_tower, precision, device, slots, prefix)
    from llava_pack.serve.control import plan_fields

    served = ordered(chosen_server(), console.say, do="start", plan=plan_fields(plan))["models"]
    _tell("start", plan.name, served, as_json=as_json)


def swap(
    model: Annotated[str, typer.Argument(help="The model whose place is taken.")],
    recipe: Annotated[_Text, _RECIPE] = None,
    model_path: Annotated[_Folder, _MODEL_PATH] = None,
    vision_tower: Annotated[_Folder, _TOWER] = None,
    precision: Annotated[_Text, _PRECISION] = None,
    device: Annotated[_Text, _DEVICE] = None,
    slots: Annotated[int | None, _SLOTS] = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Put another model in one's place: that one ends first, for both may not fit in memory.

    Where the new one cannot be started, the old one is started again. Other models go on.

    \b
    Examples:
      llava-pack swap llava-v1.5-7b llava-v1.5-13b
      llava-pack swap llava-v1.5-7b --model-path models/my-finetune-llava-v1.5
    """
    plan = _plan(recipe, model_path, vision_tower, precision, device, slots, prefix)
    from llava_pack.serve.control import plan_fields

    wanted = plan_fields(plan)
    served = ordered(chosen_server(model), console.say, do="swap", model=model, plan=wanted)[
        "models"
    ]
    _tell("swap", plan.name, served, as_json=as_json)


def _tell(kind: str, model: str, served: Sequence[str], *, as_json: bool) -> None:
    console.say(f"{console.mark('ok')} {model} is ready; served: {', '.join(served)}")
    if as_json:
        console.document(kind, {"model": model, "models": list(served)})


def _plan(
    recipe: str | None,
    model_path: Path | None,
    vision_tower: Path | None,
    precision: str | None,
    device: str | None,
    slots: int | None,
    prefix: Path | None,
) -> "EnginePlan":
    from llava_pack.serve.plans import LoadOptions

    if (recipe is None) == (model_path is None):
        raise UsageError(
            "one model is expected: an installed one's name, or a folder",
            hint="llava-pack generations; or --model-path DIR",
        )
    options = LoadOptions(
        vision_tower=vision_tower.expanduser().absolute() if vision_tower else None,
        precision=chosen_precision(precision, load_4bit=False, load_8bit=False),
        device=device,
        slots=slots,
    )
    plans, _bundle_id = plans_of(model_path, [recipe] if recipe else [], prefix, options)
    return plans[0]
