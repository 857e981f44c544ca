"""What a target's environment must hold: llava-pack's serving requirements and the recipe's."""

import re
from importlib import metadata

from packaging.markers import Marker
from packaging.requirements import Requirement

from llava_pack.assemble.runtime_files import PROGRAMS
from llava_pack.format.errors import PackError
from llava_pack.lock.torch_build import TorchChoice
from llava_pack.recipe import Recipe

EXTRA = "serve"
_EXTRA = re.compile(r'(?:\s+and\s+)?extra == "([\w-]+)"$')
"""How build backends write an extra: last. Source: the dependency specifiers specification."""


def target_requirements(recipe: Recipe, torch: TorchChoice) -> tuple[str, ...]:
    """Return requirement lines for the resolver; what `runtime/` holds is among them.

    Markers stay: the resolver evaluates them for the target, whatever this machine is.

    Raises:
        PackError: the running llava-pack is not an installed distribution, or was installed before
            it asked for a program that bundles hold.
    """
    try:
        own = metadata.requires("llava-pack") or []
    except metadata.PackageNotFoundError as error:
        raise PackError(
            "llava-pack is not installed", hint="uv tool install . in a clone"
        ) from error
    lines = [line for text in own if (line := _without_extra(text)) is not None]
    if lacking := PROGRAMS.keys() - {Requirement(line).name for line in lines}:
        raise PackError(
            "what is installed is older than this code: its requirements lack "
            f"{', '.join(sorted(lacking))}",
            subject="llava-pack",
            hint="install llava-pack again: pip install -e . or uv tool install . in the clone",
        )
    return (*lines, *recipe.runtime.requirements, *torch.requirements)


def _without_extra(text: str) -> str | None:
    """Return a requirement that holds without extras or with `serve`, its extra taken off.

    >>> _without_extra('torch>=2.6; extra == "serve"')
    'torch>=2.6'
    >>> _without_extra('ruff; extra == "dev"')
    >>> _without_extra('a; sys_platform == "darwin" and extra == "serve"')
    'a; sys_platform == "darwin"'
    """
    requirement = Requirement(text)
    if requirement.marker is None:
        return str(requirement)
    told, extra = str(requirement.marker), None
    if match := _EXTRA.search(told):
        extra, told = match[1], _EXTRA.sub("", told)
    if extra not in {None, EXTRA}:
        return None
    requirement.marker = Marker(told) if told else None
    return str(requirement)
