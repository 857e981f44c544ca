"""What a target's environment must hold: llava-pack's serving requirements and the recipe's."""

from importlib import metadata

from packaging.requirements import Requirement

from llava_pack.format.errors import PackError
from llava_pack.lock.torch_build import TorchChoice
from llava_pack.recipe import Recipe

EXTRA = "serve"


def target_requirements(recipe: Recipe, torch: TorchChoice) -> tuple[str, ...]:
    """Return requirement lines for the resolver; uv is among them, for `runtime/uv`.

    Raises:
        PackError: the running llava-pack is not an installed distribution.
    """
    try:
        own = metadata.requires("llava-pack") or []
    except metadata.PackageNotFoundError as error:
        raise PackError("llava-pack is not installed", hint="pip install llava-pack") from error
    lines = [line for text in own if (line := _without_extra(text)) is not None]
    return (*lines, *recipe.runtime.requirements, *torch.requirements)


def _without_extra(text: str) -> str | None:
    """Return a requirement that holds without extras or with `serve`, its marker taken off.

    >>> _without_extra('torch>=2.6; extra == "serve"')
    'torch>=2.6'
    >>> _without_extra('ruff; extra == "dev"')
    """
    requirement = Requirement(text)
    if requirement.marker is not None:
        if not requirement.marker.evaluate({"extra": EXTRA}):
            return None
        requirement.marker = None
    return str(requirement)
