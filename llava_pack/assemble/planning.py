"""What a build is asked for, and what it found before anything heavy is fetched."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from llava_pack.assemble.engine_fit import check_loads
from llava_pack.assemble.floors import Sized
from llava_pack.assemble.locked_inputs import check_lock, pinned_packages
from llava_pack.assemble.model_sources import (
    Sources,
    check_servable,
    identify_sources,
    recipe_sources,
    replacements,
)
from llava_pack.assemble.packages import Packages, need_python, resolve_packages
from llava_pack.assemble.packing import Format, Packing, choose_packing
from llava_pack.assemble.recipe_template import check_named, check_vocabulary
from llava_pack.assemble.runtimes import packed_for, runs_on_older, with_runtime
from llava_pack.assemble.seal import check_output
from llava_pack.assemble.serving import ServingPlan, plan_serving, source_configs, source_sizes
from llava_pack.assemble.sources import Identified
from llava_pack.assemble.terms import parts_under_terms
from llava_pack.checkpoint.kind import Kind, TowerChoice
from llava_pack.checkpoint.quantized import precision_ahead
from llava_pack.convert.native_form import native_form
from llava_pack.convert.quantize import need_torch
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.mirrors import USUAL, Mirror
from llava_pack.fetch.python_archive import PythonArchive
from llava_pack.format.errors import PreflightError, RecipeError, UsageError
from llava_pack.format.manifest import Engine
from llava_pack.format.precision import Quantized
from llava_pack.format.progress import Progress
from llava_pack.format.records import summary
from llava_pack.lock.choice import Asked, ResolutionTarget
from llava_pack.lock.document import Lock
from llava_pack.lock.profile import TargetProfile
from llava_pack.recipe import Recipe, RecipeFile

_SHOWN_WHEELS = 5
_NEWER_SYSTEM = "use a system with a newer C library (RHEL 8, Ubuntu 20.04), or a container of one"


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What a person asks for beside the recipe.

    Attributes:
        recipe: with the runtime that was asked for.
        out: the bundle's folder.
        choice: what the packages are resolved for.
        release: UTC seconds that the bundle is dated with.
        target: the facts of the machine, None where they are not known.
        locked: what was pinned earlier, and is found again instead of being resolved.
        python_archive: a standalone CPython given by hand, None to look for one.
        format: layout of the packed model, None for the recipe's own.
        quantize: precision of weights that are quantized now, None for none.
        merge: adapter or projector are put into their base now.
        tower: the one inside the checkpoint, or the stock one, where they differ.
        sources: where parts come from, in place of the recipe's sources.
        mirror: where bytes are fetched; it decides nothing of what is fetched.
        require_python: the bundle must carry a CPython.
        runtime: None for the recipe's own.
        accepted: ids of the licences whose terms the person accepts.
        record: known answers are recorded; None where this machine can.
        answers: where they are kept beside a lock, None for the cache.
        without_wheels: the target fetches from its own index what an index has.
        replace: a bundle with another id that is at `out` may be replaced.
    """

    recipe: RecipeFile
    out: Path
    choice: ResolutionTarget
    release: int
    target: TargetProfile | None = None
    locked: Lock | None = None
    python_archive: PythonArchive | None = None
    format: Format | None = None
    quantize: Quantized | None = None
    merge: bool = False
    tower: TowerChoice | None = None
    sources: Sources = field(default_factory=dict)
    mirror: Mirror = USUAL
    require_python: bool = False
    runtime: Engine | None = None
    accepted: frozenset[str] = frozenset()
    record: bool | None = None
    answers: Path | None = None
    without_wheels: bool = False
    replace: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be in the bundle, before anything heavy is fetched.

    Attributes:
        sources: by `model`, `base` and `vision_tower`, those that the recipe has.
        sized: the model and its tower.
        left_out: file names of the wheels that the target fetches itself.
    """

    recipe: Recipe
    packing: Packing
    sources: Mapping[str, Identified]
    packages: Packages
    serving: ServingPlan
    sized: Sized
    left_out: frozenset[str] = frozenset()

    @property
    def weights_bytes(self) -> int:
        """Return the bytes of model and tower weights as they are published."""
        return sum(sum(one.weight_sizes.values()) for one in self.sources.values())


def plan_build(options: BuildOptions, cache: Cache, progress: Progress) -> Plan:
    """Resolve everything: repositories at commits, wheels by hash, the interpreter.

    Raises:
        PackError: the first thing that cannot be had; nothing heavy has been fetched.
    """
    recipe, lock = options.recipe.value, options.locked
    if lock is not None:
        check_lock(lock, options.recipe)
    pins = None if lock is None else lock.sources
    sources = recipe_sources(options.recipe, pins, options.sources, options.mirror)
    packing = _packing(options)
    if packing.precision is not None:
        need_torch(f"--quantize {packing.precision}")
    check_output(options.out)
    for name, licence in parts_under_terms(recipe):
        progress.note(f"licence of {name}: {licence.id}, {licence.url}")
    _tell_replacements(options, sources, progress)
    identified = identify_sources(recipe, sources, work_folder(options.out), cache, progress)
    configs = source_configs(identified, recipe)
    sized = source_sizes(identified, configs)
    layouts = check_servable(identified, recipe, configs, progress, packing.tower)
    check_vocabulary(recipe, identified)
    if packing.merge and identified["model"].kind is Kind.LORA:
        need_torch("merging an adapter")
    if packing.format == "hf" and not packing.converted:
        native_form(*configs, layouts["vision_tower"].preprocessor)
    ahead = precision_ahead(identified["model"].config)
    check_loads(recipe, packing, identified, configs, layouts)
    if lock is None:
        quantized = (packing.precision or ahead) is not None
        packages = _resolved(recipe, options, cache, progress, quantized=quantized)
    else:
        archive, mirror = options.python_archive, options.mirror
        packages = pinned_packages(lock, cache, progress, archive=archive, mirror=mirror)
    if options.require_python:
        need_python(packages)
    serving = plan_serving(
        recipe,
        packing,
        options.target,
        sized,
        cpu=packages.torch.cuda is None,
        capability=packages.torch.capability,
        source=identified["model"],
    )
    if lock is not None:
        serving = replace(serving, profile=lock.serving)
    return Plan(
        recipe=recipe,
        packing=packing,
        sources=identified,
        packages=packages,
        serving=serving,
        sized=sized,
        left_out=_left_out(packages, progress) if options.without_wheels else frozenset(),
    )


def _left_out(packages: Packages, progress: Progress) -> frozenset[str]:
    """Return the wheels that an index has; say which ones this machine has from a folder."""
    wheels = [wheel for wheel in packages.wheels if wheel.source_sha256 is None]
    if local := [wheel.filename for wheel in wheels if wheel.url.startswith("file:")]:
        names = summary(local, _SHOWN_WHEELS)
        progress.note(f"! from a folder here, and the server's index must have them: {names}")
    return frozenset(wheel.filename for wheel in wheels)


def _packing(options: BuildOptions) -> Packing:
    """Return the layout of the bundle's model.

    Raises:
        PackError: what is asked for is not possible for the recipe.
    """
    recipe = options.recipe.value
    packing = choose_packing(
        recipe,
        wanted=options.format,
        precision=options.quantize,
        merge=options.merge,
        tower=options.tower,
    )
    check_named(recipe, packing)
    if options.record and not (packed_for(recipe).recorded and recipe.known_answers):
        raise UsageError(
            "the recipe has no known answers, or its runtime is not held against recorded ones",
            subject="--record",
            hint="leave it out",
        )
    return packing


def _resolved(
    recipe: Recipe, options: BuildOptions, cache: Cache, progress: Progress, *, quantized: bool
) -> Packages:
    """Return the packages; where only the target's C library is in the way, say what is not.

    Raises:
        PreflightError: the target's C library is too old for llava-pack's engine.
    """
    try:
        return resolve_packages(
            recipe,
            options.choice,
            cache,
            progress,
            archive=options.python_archive,
            mirror=options.mirror,
            quantized=quantized,
        )
    except RecipeError as error:
        platform = options.choice.platform
        runtime = packed_for(recipe)
        if options.target is None or platform.glibc_minor >= runtime.glibc_minor:
            raise
        raise PreflightError(
            f"no set of wheels of {runtime.title} for glibc {platform.glibc}, "
            f"expected 2.{runtime.glibc_minor} or newer",
            subject="target",
            hint=old_glibc_fix(recipe),
        ) from error


def _tell_replacements(options: BuildOptions, sources: Sources, progress: Progress) -> None:
    """Tell what comes from elsewhere than the recipe says, and by what it is compared."""
    parts = options.recipe.value.parts()
    for part, meant in replacements(options.recipe, sources, options.sources):
        source, public, files = sources[part], meant.public, parts[part].files
        if digests := sum(one.sha256 is not None for one in files):
            progress.note(
                f"! {part}: {source} in place of {public}; compared by the digests of {digests} "
                f"of {len(files)} files"
            )
        else:
            progress.note(f"! {part}: {source} in place of {public}; the recipe has no digests")


def old_glibc_fix(recipe: Recipe) -> str:
    """Return what to do where the C library is too old: another runtime, if it takes the model."""
    other = runs_on_older(recipe)
    if other is None:
        return _NEWER_SYSTEM
    return f"--runtime {other.engine} packs {other.title}, which runs there; or {_NEWER_SYSTEM}"


def work_folder(out: Path) -> Path:
    """Return where the sources of a bundle are laid out while it is built."""
    return out.with_name(f"{out.name}.sources")


def locked_options(options: BuildOptions, lock: Lock, asked: Asked) -> BuildOptions:
    """Return the options that a lock was written with.

    Raises:
        UsageError: an option asks for something that the lock has decided.
    """
    packing = dict(lock.packing)
    extra = options.format or options.quantize or options.merge or options.tower or options.runtime
    if asked != Asked() or extra or options.without_wheels:
        raise UsageError(
            "a lock decides platform, Python, CUDA, runtime, packages and layout",
            subject="--locked",
            hint="leave the other options out, or write a lock with them",
        )
    return replace(
        options,
        locked=lock,
        release=lock.release,
        choice=replace(options.choice, cuda=lock.cuda),
        format=packing.get("format"),
        quantize=packing.get("quantize"),
        merge=bool(packing.get("merge")),
        tower=packing.get("tower"),
        without_wheels=lock.without_wheels,
        recipe=replace(
            options.recipe, value=with_runtime(options.recipe.value, lock.serving.engine)
        ),
    )
