"""The manifest of a build: what the steps did, as values."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llava_pack.assemble.engine_fit import needed_tools
from llava_pack.assemble.floors import FloorInputs, bundle_floors
from llava_pack.assemble.locked_inputs import CREATED_BY
from llava_pack.assemble.packing import Packing
from llava_pack.assemble.planning import BuildOptions, Plan
from llava_pack.assemble.runtimes import packed_for
from llava_pack.assemble.sources import Fetched
from llava_pack.assemble.terms import licence_entries
from llava_pack.format.chunks import Chunks
from llava_pack.format.errors import RecipeError
from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.format.manifest import (
    FileEntry,
    Floors,
    Manifest,
    ModelEntry,
    RecipeEntry,
    Rewrite,
    expected_format,
)
from llava_pack.lock.fit import Wish
from llava_pack.lock.wheel_needs import ProvedFloors
from llava_pack.recipe import Recipe, RecipeFile

_PICTURE_MAX_BYTES = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class BuildFacts:
    """What the steps of a build did, beside its plan.

    Attributes:
        sources: what was fetched, by `model`, `base` and `vision_tower`.
        entries: every staged file.
        chunks: the digests of the chunks of those that are large.
        rewrites: what was changed in configuration files.
        proved: what the wheels' own files need.
        inodes: files and folders that installing makes.
        known_answers: the questions that the model is asked.
        references: what it answered.
    """

    sources: Mapping[str, Fetched]
    entries: Sequence[FileEntry]
    chunks: Chunks
    rewrites: Sequence[Rewrite]
    proved: ProvedFloors
    inodes: int
    known_answers: tuple[KnownAnswer, ...] = ()
    references: tuple[Reference, ...] = ()


def describe(plan: Plan, options: BuildOptions, facts: BuildFacts) -> Manifest:
    """Return the manifest of a staged bundle."""
    recipe, packages = plan.recipe, plan.packages
    licence, *others = licence_entries(recipe, options.accepted)
    return Manifest(
        format=expected_format(facts.entries),
        release=options.release,
        created_by=CREATED_BY,
        recipe=RecipeEntry(name=recipe.name, title=recipe.title),
        licence=licence,
        other_licences=tuple(others),
        model=_model(recipe, plan.packing),
        python=packages.python.entry(),
        lock={
            **{name: source.pinned.public for name, source in facts.sources.items()},
            "platform": packages.platform.uv_platform,
            "torch": packages.torch.version,
            "cuda": packages.torch.cuda or "none",
            "wheels": len(packages.wheels) + 1,
            **_engine_version(plan),
        },
        files=tuple(facts.entries),
        chunks=facts.chunks,
        rewrites=tuple(facts.rewrites),
        floors=_floors(plan, facts),
        serving=plan.serving.profile,
        known_answers=facts.known_answers,
        references=facts.references,
    )


def _engine_version(plan: Plan) -> dict[str, str]:
    """Return the version of an engine that has an environment of its own."""
    profile = packed_for(plan.recipe).profile
    if profile is None:
        return {}
    found = {wheel.name: wheel.version for wheel in plan.packages.engine}
    return {"engine": found[profile.package]}


def _model(recipe: Recipe, packing: Packing) -> ModelEntry:
    tower = recipe.vision_tower if packing.tower_beside else None
    return ModelEntry(
        name=recipe.model.name,
        path=f"model/{recipe.model.name}",
        format=packing.format,
        vision_tower=None if tower is None else f"model/{tower.name}",
        conv_mode=recipe.model.conv_mode,
        tokenizer=f"model/{packing.tokenizer}" if packing.tokenizer else None,
    )


def _floors(plan: Plan, facts: BuildFacts) -> Floors:
    wheels = {
        entry.path.rsplit("/", 1)[-1]: entry.size_bytes
        for entry in facts.entries
        if entry.path.startswith("wheels/")
    }
    contents = FloorInputs(
        platform=plan.packages.platform,
        torch=plan.packages.torch,
        wheels=wheels,
        total_bytes=sum(entry.size_bytes for entry in facts.entries),
        proved=facts.proved,
        inodes=facts.inodes,
        tools=needed_tools(plan.recipe, plan.packages),
    )
    serving = plan.serving.profile
    wish = Wish(context_tokens=serving.context_tokens, slots=serving.slots, gpus=serving.gpus)
    return bundle_floors(contents, plan.sized, wish)


def known_answers(recipe: RecipeFile) -> tuple[KnownAnswer, ...]:
    """Return the questions that a model is asked to prove that it sees.

    Raises:
        RecipeError: a picture cannot be used.
    """
    answers = []
    for part in recipe.value.known_answers:
        path = recipe.folder / part.picture
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
