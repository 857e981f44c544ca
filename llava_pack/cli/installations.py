"""What is installed under a prefix, for the commands that use it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava_pack.cli.target import chosen_prefix
from llava_pack.format.errors import IntegrityError
from llava_pack.serve.plans import EnginePlan, LoadOptions, installed_plan

if TYPE_CHECKING:
    from llava_target.generations import Installation

_SHOWN = 5


def installations(prefix: Path | None, recipes: Sequence[str]) -> tuple["Installation", ...]:
    """Return the active generations of some recipes, or of the one activated last.

    Raises:
        InstallError: one is not installed.
    """
    place = chosen_prefix(prefix)
    from llava_target.generations import installed

    return tuple(installed(place, recipe) for recipe in recipes) or (installed(place),)


def changed_files(item: "Installation") -> tuple[str, ...]:
    """Return the files that do not look as they did when they were verified."""
    from llava_target import receipt

    proof = receipt.read(item.root)
    if proof is None:
        return (receipt.NAME,)
    try:
        now = receipt.seal(item.root)
    except OSError as error:
        return (str(error.filename),)
    names = sorted({*now, *proof.seal})
    return tuple(name for name in names if now.get(name) != proof.seal.get(name))


def plan_of(item: "Installation", options: LoadOptions) -> EnginePlan:
    """Return how an installed model is served.

    Raises:
        IntegrityError: its files do not look as they did when they were verified.
    """
    if changed := changed_files(item):
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise IntegrityError(
            f"changed since they were verified: {', '.join(changed[:_SHOWN])}{more}",
            subject=item.recipe,
            hint=f"{item.prefix}/bin/llava-pack health --deep",
        )
    return installed_plan(
        item.manifest,
        options,
        model_dir=item.model_dir,
        vision_tower=item.vision_tower_dir,
        python=item.venv_python,
    )
