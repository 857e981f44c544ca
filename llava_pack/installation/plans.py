"""What is installed under a prefix, for the commands that use it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llava_pack.format.errors import InstallError, IntegrityError
from llava_pack.format.progress import Progress
from llava_pack.format.sums import ENGINE_LOCK
from llava_pack.installation.engines import engine_plan
from llava_pack.installation.installed import Installation, installed
from llava_pack.installation.integrity import changed_files
from llava_pack.installation.prefix import own_prefix
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.supervision.plans import EnginePlan, LoadOptions, installed_plan

_SHOWN = 5


def installations(prefix: Path | None, recipes: Sequence[str]) -> tuple[Installation, ...]:
    """Return the active generations of some recipes, or of the one activated last.

    Raises:
        InstallError: one is not installed.
        PreflightError: another account could change what would be served.
    """
    place = own_prefix(prefix)
    return tuple(installed(place, recipe) for recipe in recipes) or (installed(place),)


def plan_of(item: Installation, options: LoadOptions, progress: Progress) -> EnginePlan:
    """Return how an installed model is served.

    Raises:
        IntegrityError: its files do not look as they did when they were verified.
        UsageError: an option asks for what its engine does not have.
        InstallError: its engine is not there.
    """
    if changed := changed_files(item, progress):
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise IntegrityError(
            f"changed since they were verified: {', '.join(changed[:_SHOWN])}{more}",
            subject=item.recipe,
            hint=f"{item.prefix}/bin/llava-pack health --deep",
        )
    plan = installed_plan(
        item.manifest,
        options,
        model_dir=item.model_dir,
        vision_tower=item.vision_tower_dir,
        python=item.venv_python,
    )
    plan = replace(plan, known_answers=item.right_answers)
    profile = RUNTIMES[item.manifest.serving.engine].profile
    if profile is None:
        return plan
    if item.engine_python is None:
        raise InstallError(
            f"expected {ENGINE_LOCK} beside its engine, got none",
            subject=item.recipe,
            hint="install a bundle that was built again",
        )
    return engine_plan(
        plan,
        options,
        item.manifest,
        profile,
        python=item.engine_python,
        tokenizer_dir=item.tokenizer_dir,
    )
