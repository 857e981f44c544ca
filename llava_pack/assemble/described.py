"""The manifest of a build: what the steps did, as values."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_pack import __version__
from llava_pack.assemble.floors import FloorInputs, bundle_floors, model_configs
from llava_pack.assemble.packing import Packing
from llava_pack.assemble.sources import Fetched
from llava_pack.checkpoint.config import parse_config
from llava_pack.format.errors import RecipeError
from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.format.manifest import (
    FileEntry,
    Floors,
    LicenceEntry,
    Manifest,
    ModelEntry,
    PythonEntry,
    RecipeEntry,
    Rewrite,
    ServingProfile,
)
from llava_pack.lock.fit import Wish
from llava_pack.lock.platform import Platform
from llava_pack.lock.torch_build import TorchNeeds
from llava_pack.lock.wheel_needs import ProvedFloors
from llava_pack.recipe import Recipe

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
        serving: what `serve` starts with.
        proved: what the wheels' own files need.
        wheels: how many there are.
        inodes: files and folders that installing makes.
        release: UTC seconds.
        licences: of the models, the model's own first.
        references: what the model answered to its known questions.
    """

    sources: Mapping[str, Fetched]
    packing: Packing
    entries: Sequence[FileEntry]
    rewrites: Sequence[Rewrite]
    platform: Platform
    torch: TorchNeeds
    serving: ServingProfile
    proved: ProvedFloors
    python: PythonEntry
    wheels: int
    inodes: int
    release: int
    licences: Sequence[LicenceEntry]
    references: tuple[Reference, ...] = ()


def describe(recipe: Recipe, base: Path, facts: BuildFacts) -> Manifest:
    """Return the manifest of a staged bundle.

    Args:
        recipe: what was asked for.
        base: the recipe's folder, where its pictures lie.
        facts: what the steps did.

    Raises:
        RecipeError: a picture of a known answer cannot be used.
    """
    return Manifest(
        release=facts.release,
        created_by=f"llava-pack {__version__}",
        recipe=RecipeEntry(name=recipe.name, title=recipe.title),
        licence=facts.licences[0],
        other_licences=tuple(facts.licences[1:]),
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
        floors=_floors(facts),
        serving=facts.serving,
        known_answers=known_answers(recipe, base),
        references=facts.references,
    )


def _floors(facts: BuildFacts) -> Floors:
    wheels = {
        entry.path.rsplit("/", 1)[-1]: entry.size_bytes
        for entry in facts.entries
        if entry.path.startswith("wheels/")
    }
    contents = FloorInputs(
        platform=facts.platform,
        torch=facts.torch,
        wheels=wheels,
        total_bytes=sum(entry.size_bytes for entry in facts.entries),
        proved=facts.proved,
        inodes=facts.inodes,
    )
    found = {
        name: parse_config((facts.sources[name].folder / "config.json").read_bytes())
        for name in ("model", "vision_tower")
        if name in facts.sources
    }
    serving = facts.serving
    wish = Wish(context_tokens=serving.context_tokens, slots=serving.slots, gpus=serving.gpus)
    return bundle_floors(contents, model_configs(found), wish)


def _tower_path(recipe: Recipe, packing: Packing) -> str | None:
    tower = recipe.vision_tower
    return f"model/{tower.name}" if tower is not None and packing.tower_beside else None


def known_answers(recipe: Recipe, base: Path) -> tuple[KnownAnswer, ...]:
    """Return the questions that a model is asked to prove that it sees.

    Args:
        recipe: names them.
        base: the recipe's folder, where its pictures lie.

    Raises:
        RecipeError: a picture cannot be used.
    """
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
    return tuple(answers)
