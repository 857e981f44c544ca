"""The manifest of a build: what the steps did, as values."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pack import __version__
from llava_pack.assemble.packing import Packing
from llava_pack.assemble.sources import Fetched
from llava_pack.checkpoint.config import parse_config
from llava_pack.checkpoint.converted import as_original
from llava_pack.checkpoint.footprint import memory_bytes
from llava_pack.format.errors import RecipeError
from llava_pack.format.manifest import (
    FileEntry,
    Floors,
    KnownAnswer,
    LicenceEntry,
    Manifest,
    ModelEntry,
    PythonEntry,
    RecipeEntry,
    Rewrite,
    ServingProfile,
)
from llava_pack.lock.platform import Platform
from llava_pack.lock.torch_build import TorchNeeds
from llava_pack.recipe import Recipe

_UNPACKED_RATIO = 2.2
"""Wheels grow to about this much when they are installed. Source: docs/reference/benchmarks.md."""
_PICTURE_MAX_BYTES = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class BuildFacts:
    """What the steps of a build did.

    Attributes:
        sources: what was fetched, by `model`, `base` and `vision_tower`.
        packing: the layout of the model.
        entries: every staged file.
        rewrites: what was changed in configuration files.
        platform: what the wheels were chosen for.
        torch: what the torch in the lock is and needs.
        wheels: how many there are.
        release: UTC seconds.
    """

    sources: Mapping[str, Fetched]
    packing: Packing
    entries: Sequence[FileEntry]
    rewrites: Sequence[Rewrite]
    platform: Platform
    torch: TorchNeeds
    python: PythonEntry
    wheels: int
    release: int


def describe(recipe: Recipe, base: Path, facts: BuildFacts) -> Manifest:
    """Return the manifest of a staged bundle.

    Args:
        recipe: what was asked for.
        base: the recipe's folder, where its pictures lie.
        facts: what the steps did.

    Raises:
        RecipeError: a picture of a known answer cannot be used.
    """
    serving = recipe.serving
    return Manifest(
        release=facts.release,
        created_by=f"llava-pack {__version__}",
        recipe=RecipeEntry(name=recipe.name, title=recipe.title),
        licence=LicenceEntry(**recipe.licence.model_dump()),
        model=ModelEntry(
            name=recipe.model.name,
            path=f"model/{recipe.model.name}",
            format=facts.packing.format,
            vision_tower=_tower_path(recipe, facts.packing),
            conv_mode=recipe.model.conv_mode,
        ),
        python=facts.python,
        lock={
            **{name: source.pinned for name, source in facts.sources.items()},
            "platform": facts.platform.uv_platform,
            "torch": facts.torch.version,
            "cuda": facts.torch.cuda or "none",
            "wheels": facts.wheels,
        },
        files=tuple(facts.entries),
        rewrites=tuple(facts.rewrites),
        floors=_floors(recipe, facts),
        serving=ServingProfile(
            engine=recipe.runtime.engine,
            precision=facts.packing.precision or serving.precision,
            device="cpu" if facts.torch.cuda is None else "auto",
            context_tokens=serving.context_tokens,
            slots=serving.slots,
        ),
        known_answers=tuple(_known_answers(recipe, base)),
    )


def _floors(recipe: Recipe, facts: BuildFacts) -> Floors:
    platform, torch = facts.platform, facts.torch
    wheels_bytes = sum(e.size_bytes for e in facts.entries if e.path.startswith("wheels/"))
    total_bytes = sum(entry.size_bytes for entry in facts.entries)
    return Floors(
        python=platform.python,
        python_tag=platform.python_tag,
        platform="linux",
        arch=platform.arch,
        glibc=_glibc_floor(facts.entries, platform),
        driver=torch.driver,
        compute_capability=torch.capability,
        disk_bytes=total_bytes + round(_UNPACKED_RATIO * wheels_bytes),
        memory_bytes=memory_bytes(
            *_configs(facts),
            context_tokens=recipe.serving.context_tokens,
            slots=recipe.serving.slots,
            device="cpu" if torch.cuda is None else "cuda",
        ),
        cpu_flags=(),
    )


def _tower_path(recipe: Recipe, packing: Packing) -> str | None:
    tower = recipe.vision_tower
    return f"model/{tower.name}" if tower is not None and packing.tower_beside else None


def _configs(facts: BuildFacts) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configurations of model and tower, in the original keys."""
    model, *tower = (
        parse_config((facts.sources[name].folder / "config.json").read_bytes())
        for name in ("model", "vision_tower")
        if name in facts.sources
    )
    return (model, tower[0]) if tower else (as_original(model), model)


def _glibc_floor(entries: Sequence[FileEntry], platform: Platform) -> str | None:
    """Return the newest glibc that a wheel's tag names, at most the target's.

    Source: the platform compatibility tags specification (PEP 600).
    """
    legacy = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}
    newest = 0
    for entry in entries:
        if not entry.path.startswith("wheels/"):
            continue
        minors = []
        for tag in entry.path.removesuffix(".whl").rsplit("-", 1)[-1].split("."):
            name = tag.removesuffix(f"_{platform.arch}")
            if name.startswith("manylinux_2_"):
                minors.append(int(name.removeprefix("manylinux_2_")))
            elif name in legacy:
                minors.append(legacy[name])
        newest = max(newest, min(minors, default=0))
    return f"2.{newest}" if newest else None


def _known_answers(recipe: Recipe, base: Path) -> list[KnownAnswer]:
    answers = []
    for part in recipe.known_answers:
        path = base / part.picture
        if not path.is_file() or path.stat().st_size > _PICTURE_MAX_BYTES:
            raise RecipeError(
                f"picture of known answer {part.name!r}: expected a file of at most "
                f"{_PICTURE_MAX_BYTES} bytes",
                subject=part.picture,
            )
        picture = base64.b64encode(path.read_bytes()).decode()
        answers.append(
            KnownAnswer(
                name=part.name, picture_png=picture, prompt=part.prompt, contains=part.contains
            )
        )
    return answers
