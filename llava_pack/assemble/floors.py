"""The least that a target needs for a bundle, before it is built and after: one computation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llava_pack.checkpoint.converted import as_original, converted_tower
from llava_pack.checkpoint.footprint import Parameters, memory_bytes
from llava_pack.format.inodes import guessed_inodes
from llava_pack.format.manifest import Floors
from llava_pack.format.target import version
from llava_pack.lock.fit import Wish
from llava_pack.lock.platform import LEGACY, Platform
from llava_pack.lock.torch_build import TorchNeeds
from llava_pack.lock.wheel_needs import ProvedFloors

_UNPACKED_RATIO = 2.2
"""Wheels grow to about this much when they are installed. Source: docs/reference/benchmarks.md."""
_LEGACY = {name: minor for minor, name in LEGACY.items()}

Configs = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Of the model in the original layout's keys, and of its tower."""
Sized = tuple[Parameters, Mapping[str, Any]]
"""Parameters of model and tower, and the sizes of the language model: what memory is told by."""


@dataclass(frozen=True, kw_only=True)
class FloorInputs:
    """What of a bundle decides its floors.

    Attributes:
        wheels: file names and sizes.
        total_bytes: of the whole bundle.
        proved: what the wheels' own files need, None before they were read.
        inodes: files and folders that installing makes, None before they can be counted.
        tools: of the system, that the engine compiles with.
    """

    platform: Platform
    torch: TorchNeeds
    wheels: Mapping[str, int]
    total_bytes: int
    proved: ProvedFloors | None = None
    inodes: int | None = None
    tools: tuple[str, ...] = ()


def bundle_floors(contents: FloorInputs, sized: Sized, wish: Wish) -> Floors:
    """Return the floors of a bundle.

    Raises:
        CheckpointError: a size is missing from a configuration.
    """
    platform, torch, proved = contents.platform, contents.torch, contents.proved
    return Floors(
        python=platform.python,
        python_tag=platform.python_tag,
        platform="linux",
        arch=platform.arch,
        glibc=_newest(tagged_glibc(contents.wheels, platform), proved.glibc if proved else None),
        glibcxx=proved.glibcxx if proved else None,
        driver=torch.driver,
        compute_capability=torch.capability,
        disk_bytes=contents.total_bytes + round(_UNPACKED_RATIO * sum(contents.wheels.values())),
        memory_bytes=memory_bytes(
            *sized,
            context_tokens=wish.context_tokens,
            slots=wish.slots,
            device="cpu" if torch.cuda is None else "cuda",
            gpus=wish.gpus,
        ),
        cpu_flags=proved.cpu_flags if proved else (),
        disk_inodes=contents.inodes or guessed_inodes(contents.wheels.values()),
        tools=contents.tools,
    )


def model_configs(found: Mapping[str, dict[str, Any]]) -> Configs:
    """Return the configurations of model and tower, in the original keys.

    Args:
        found: config.json of `model` and, where the tower is apart, `vision_tower`.
    """
    model = found["model"]
    if "vision_tower" in found:
        return model, found["vision_tower"]
    return as_original(model), {"vision_config": converted_tower(model)}


def _newest(*found: str | None) -> str | None:
    """Return the highest version: a tag binds the installer, a symbol binds the loader."""
    return max((one for one in found if one is not None), key=version, default=None)


def tagged_glibc(wheels: Iterable[str], platform: Platform) -> str | None:
    """Return the newest glibc that a wheel's tag asks for.

    Source: the platform compatibility tags specification (PEP 600).

    >>> from llava_pack.lock.platform import parse_platform
    >>> here = parse_platform("x86_64-manylinux_2_35", "3.11")
    >>> tagged_glibc(["a-1-cp311-cp311-manylinux_2_28_x86_64.manylinux2014_x86_64.whl"], here)
    '2.17'
    """
    newest = 0
    for wheel in wheels:
        minors = []
        for tag in wheel.removesuffix(".whl").rsplit("-", 1)[-1].split("."):
            name = tag.removesuffix(f"_{platform.arch}")
            if name.startswith("manylinux_2_"):
                minors.append(int(name.removeprefix("manylinux_2_")))
            elif name in _LEGACY:
                minors.append(_LEGACY[name])
        newest = max(newest, min(minors, default=0))
    return f"2.{newest}" if newest else None
