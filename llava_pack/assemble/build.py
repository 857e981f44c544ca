"""`build`: the steps from a recipe to a bundle, each of which can be stopped and run again."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_pack.assemble.card import Card
from llava_pack.assemble.described import BuildFacts, describe
from llava_pack.assemble.layouts import stage_packing
from llava_pack.assemble.model_files import check_nothing_remote, stage_licences
from llava_pack.assemble.model_sources import fetch_sources, list_sources
from llava_pack.assemble.packing import Format, Packing, choose_packing
from llava_pack.assemble.requirements import target_requirements
from llava_pack.assemble.runtime_files import (
    PythonChoice,
    remote_wheel,
    stage_installer,
    stage_runtime,
    stage_wheels,
)
from llava_pack.assemble.seal import check_output, seal
from llava_pack.assemble.sources import Fetched, RemoteSource
from llava_pack.assemble.staging import Staging
from llava_pack.checkpoint.kind import Kind
from llava_pack.convert.quantize import Precision, need_torch
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.download import Fetched as FetchedFile
from llava_pack.fetch.download import download_all
from llava_pack.fetch.python import find_standalone
from llava_pack.format.errors import FetchError, NetworkError, SpaceError
from llava_pack.format.progress import Progress
from llava_pack.lock.indexes import configured_indexes
from llava_pack.lock.platform import Platform
from llava_pack.lock.pylock import LockedWheel
from llava_pack.lock.resolve import resolve
from llava_pack.lock.torch_build import Cuda, choose_torch
from llava_pack.recipe import Recipe, read_recipe

_SPARE_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What a person asks for beside the recipe.

    Attributes:
        out: the bundle's folder.
        own_python: the bundle shall carry a CPython; False where the target's own is used.
        cuda: CUDA major of torch, `none` for CPU.
        torch_backend: passed on to uv, None to decide.
        release: UTC seconds that the bundle is dated with.
        format: layout of the packed model, None for the recipe's own.
        quantize: precision of weights that are quantized now, None for none.
        merge: adapter or projector are put into their base now.
    """

    recipe: Path
    out: Path
    platform: Platform
    cuda: Cuda
    own_python: bool
    torch_backend: str | None
    release: int
    format: Format | None = None
    quantize: Precision | None = None
    merge: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be in the bundle, before anything heavy is fetched.

    Attributes:
        sources: by `model`, `base` and `vision_tower`, those that the recipe has.
    """

    recipe: Recipe
    packing: Packing
    sources: Mapping[str, RemoteSource]
    wheels: tuple[LockedWheel, ...]
    uv: LockedWheel
    python: PythonChoice

    @property
    def weights_bytes(self) -> int:
        """Return the bytes of model and tower weights as they are published."""
        return sum(
            source.listing.sizes[name]
            for source in self.sources.values()
            for name in source.weight_files()
        )


def plan_build(options: BuildOptions, cache: Cache, progress: Progress) -> Plan:
    """Resolve everything: repositories at commits, wheels by hash, the interpreter.

    Raises:
        PackError: the first thing that cannot be had; nothing heavy has been fetched.
    """
    recipe = read_recipe(options.recipe)
    packing = choose_packing(
        recipe, wanted=options.format, precision=options.quantize, merge=options.merge
    )
    if packing.precision is not None:
        need_torch(f"--quantize {packing.precision}")
    check_output(options.out)
    licence = recipe.licence
    progress.note(f"licence: {licence.id}, {licence.url}")
    work = _work_folder(options.out)
    sources = list_sources(recipe, options.recipe.parent, work, cache, progress)
    if packing.merge and sources["model"].kind is Kind.LORA:
        need_torch("merging an adapter")
    wheels, uv = _lock(recipe, options, progress)
    python = _choose_python(options, progress)
    plan = Plan(
        recipe=recipe, packing=packing, sources=sources, wheels=wheels, uv=uv, python=python
    )
    _check_space(options.out, plan.weights_bytes)
    return plan


def build(options: BuildOptions, cache: Cache, progress: Progress) -> Card:
    """Build a bundle and return its card.

    A build that was stopped goes on: fetched files are in the cache, finished groups in the staging
    folder beside `out`.

    Raises:
        PackError: see `plan_build`, and what fetching and converting raise.
    """
    plan = plan_build(options, cache, progress)
    sources = fetch_sources(plan.sources, plan.recipe, progress)
    fetched = _fetch_files(plan, cache, progress)
    _check_space(options.out, sum(file.size_bytes for file in fetched.values()))
    staging = Staging(_staging_folder(options.out), progress)
    _stage(staging, plan, sources, fetched, options)
    recipe = plan.recipe
    rewrites = stage_packing(staging, plan.packing, recipe, sources)
    check_nothing_remote(staging)
    facts = BuildFacts(
        sources=sources,
        packing=plan.packing,
        entries=staging.entries,
        rewrites=rewrites,
        platform=options.platform,
        cuda=options.cuda,
        python=plan.python.entry(),
        wheels=len(plan.wheels) + 1,
        release=options.release,
    )
    manifest = describe(recipe, options.recipe.parent, facts)
    identity = seal(staging, manifest, options.out)
    shutil.rmtree(_work_folder(options.out))
    return Card(
        recipe=recipe.name,
        bundle=str(options.out),
        bundle_id=identity,
        release=options.release,
        size_bytes=manifest.size_bytes,
        files=len(manifest.files),
    )


def _stage(
    staging: Staging,
    plan: Plan,
    sources: Mapping[str, Fetched],
    fetched: Mapping[str, FetchedFile],
    options: BuildOptions,
) -> None:
    total_bytes = sum(file.size_bytes for file in fetched.values())
    staging.progress.start("stage wheels and runtime", total_bytes)
    python = options.platform.python
    stage_wheels(staging, plan.wheels, fetched, python)
    archive = None if plan.python.archive is None else fetched[plan.python.archive.name]
    stage_runtime(staging, fetched[plan.uv.filename], plan.python, archive, python)
    stage_installer(staging)
    stage_licences(staging, {_folder(plan.recipe, name): one for name, one in sources.items()})
    staging.progress.done()


def _folder(recipe: Recipe, source: str) -> str:
    """Return the name of a source's folder."""
    parts = {"model": recipe.model, "base": recipe.model.base, "vision_tower": recipe.vision_tower}
    part = parts[source]
    return source if part is None else part.name


def _lock(
    recipe: Recipe, options: BuildOptions, progress: Progress
) -> tuple[tuple[LockedWheel, ...], LockedWheel]:
    """Return the target's wheels and, apart, the wheel of uv."""
    indexes = configured_indexes()
    folders = indexes.local_folders()
    progress.start(f"resolve packages for {options.platform.uv_platform}", None)
    backend = options.torch_backend
    choice = choose_torch(options.cuda, options.platform, folders, backend=backend)
    try:
        wheels = resolve(
            target_requirements(recipe, choice), options.platform, indexes,
            torch_backend=choice.backend,
        )  # fmt: skip
    except NetworkError:
        if choice.backend is None or backend is not None:
            raise
        choice = choose_torch(options.cuda, options.platform, folders, backend="pypi")
        progress.note(f"! {choice.note}")
        wheels = resolve(target_requirements(recipe, choice), options.platform, indexes)
    progress.done()
    uv = next(wheel for wheel in wheels if wheel.name == "uv")
    return tuple(wheel for wheel in wheels if wheel.name != "uv"), uv


def _choose_python(options: BuildOptions, progress: Progress) -> PythonChoice:
    """Return the CPython to carry; the target's own where none is wanted or none can be had."""
    version = options.platform.python
    if not options.own_python:
        return PythonChoice(version=version, archive=None)
    try:
        found = find_standalone(version, f"{options.platform.arch}-unknown-linux-gnu")
        reason = found.reason
    except (NetworkError, FetchError) as error:
        found, reason = None, str(error)
    if found is not None and found.file is not None:
        return PythonChoice(version=found.version, archive=found.file)
    progress.note(f"! no standalone CPython {version} ({reason}):")
    progress.note(f"  the bundle will need Python {version} on the target")
    return PythonChoice(version=version, archive=None, note=reason)


def _fetch_files(plan: Plan, cache: Cache, progress: Progress) -> dict[str, FetchedFile]:
    wanted = [remote_wheel(wheel) for wheel in (*plan.wheels, plan.uv)]
    if plan.python.archive is not None:
        wanted.append(plan.python.archive)
    fetched = download_all(wanted, cache, progress=progress, what="fetch packages")
    return {file.name: found for file, found in fetched.items()}


def _check_space(out: Path, needed_bytes: int) -> None:
    folder = next(parent for parent in (out, *out.absolute().parents) if parent.is_dir())
    free_bytes = shutil.disk_usage(folder).free
    staged = _staging_folder(out)
    held_bytes = sum(p.stat().st_size for p in staged.rglob("*") if p.is_file())
    if free_bytes + held_bytes < needed_bytes + _SPARE_BYTES:
        raise SpaceError(
            f"not enough disk for the bundle: expected {needed_bytes + _SPARE_BYTES} bytes free, "
            f"got {free_bytes}",
            subject=str(folder),
            hint="free space there, or choose another disk with --out",
        )


def _staging_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def _work_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.sources")


def release_now(environ: Mapping[str, str], now: float) -> int:
    """Return the release time: SOURCE_DATE_EPOCH where it is set, else now.

    >>> release_now({"SOURCE_DATE_EPOCH": "1700000000"}, 5.5)
    1700000000
    """
    return int(environ.get("SOURCE_DATE_EPOCH") or now)
