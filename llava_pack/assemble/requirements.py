"""What a target's environment must hold: llava-pack's serving requirements and the recipe's."""

import re
from importlib import metadata

from packaging.markers import Marker
from packaging.requirements import Requirement

from llava_pack.assemble.runtime_files import PROGRAMS
from llava_pack.format.errors import PackError
from llava_pack.lock.torch_build import TorchChoice
from llava_pack.profiles.profile import Profile, Release
from llava_pack.recipe import Recipe

EXTRA = "serve"
COMPILER = "ziglang"
"""A C compiler that travels as a wheel. Source: ziglang on PyPI, `python -m ziglang cc`."""
_OF_OUR_ENGINE = frozenset(
    [
        *("accelerate", "bitsandbytes", "llguidance", "numpy", "protobuf", "safetensors"),
        *("sentencepiece", "torch", "transformers"),
    ]
)
"""What llava-pack's own engine alone imports."""
_EXTRA = re.compile(r'(?:\s+and\s+)?extra == "([\w-]+)"$')
"""How build backends write an extra: last. Source: the dependency specifiers specification."""


def target_requirements(recipe: Recipe, torch: TorchChoice) -> tuple[str, ...]:
    """Return requirement lines for the resolver; what `runtime/` holds is among them.

    Raises:
        PackError: see `_own_requirements`.
    """
    return (*_own_requirements(), *recipe.runtime.requirements, *torch.requirements)


def gateway_requirements() -> tuple[str, ...]:
    """Return the same for what stands before an engine with an environment of its own.

    Raises:
        PackError: see `_own_requirements`.
    """
    return tuple(
        line for line in _own_requirements() if Requirement(line).name not in _OF_OUR_ENGINE
    )


def engine_requirements(
    recipe: Recipe, profile: Profile, release: Release, torch: TorchChoice, *, quantized: bool
) -> tuple[str, ...]:
    """Return what the environment of an engine of the field is asked for.

    Args:
        recipe: its ranges narrow the engine's.
        profile: of the engine.
        release: of it.
        torch: which one it can have.
        quantized: the weights were quantized ahead, by bitsandbytes.
    """
    compiles = release.cuda != "none" and "cc" in profile.loads.needs
    return (
        *release.requirements,
        *torch.requirements,
        *((COMPILER,) if compiles else ()),
        *(release.kernels if quantized else ()),
        *recipe.runtime.requirements,
    )


def _own_requirements() -> tuple[str, ...]:
    """Return what llava-pack asks for itself, to serve.

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
    return tuple(lines)


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
