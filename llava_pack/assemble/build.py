"""`build`: the steps from a recipe to a bundle, each of which can be stopped and run again."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_pack.assemble.card import Card
from llava_pack.assemble.described import BuildFacts, describe
from llava_pack.assemble.floors import Configs
from llava_pack.assemble.layouts import stage_packing
from llava_pack.assemble.model_files import check_nothing_remote, stage_licences
from llava_pack.assemble.model_sources import fetch_sources, list_sources
from llava_pack.assemble.packages import Packages, resolve_packages
from llava_pack.assemble.packing import Format, Packing, choose_packing
from llava_pack.assemble.runtime_files import (
    remote_wheel,
    stage_installer,
    stage_runtime,
    stage_wheels,
)
from llava_pack.assemble.seal import check_output, seal
from llava_pack.assemble.serving import ServingPlan, plan_serving, source_configs
from llava_pack.assemble.sources import Fetched, RemoteSource
from llava_pack.assemble.staging import Staging
from llava_pack.checkpoint.kind import Kind
from llava_pack.convert.quantize import Precision, need_torch
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.download import Fetched as FetchedFile
from llava_pack.fetch.download import download_all
from llava_pack.format.errors import SpaceError
from llava_pack.format.progress import Progress
from llava_pack.format.target import TargetProfile
from llava_pack.lock.choice import Choice
from llava_pack.recipe import Recipe, read_recipe

_SPARE_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What a person asks for beside the recipe.

    Attributes:
        out: the bundle's folder.
        choice: what the packages are resolved for.
        release: UTC seconds that the bundle is dated with.
        target: the facts of the machine, None where they are not known.
        format: layout of the packed model, None for the recipe's own.
        quantize: precision of weights that are quantized now, None for none.
        merge: adapter or projector are put into their base now.
    """

    recipe: Path
    out: Path
    choice: Choice
    release: int
    target: TargetProfile | None = None
    format: Format | None = None
    quantize: Precision | None = None
    merge: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be in the bundle, before anything heavy is fetched.

    Attributes:
        sources: by `model`, `base` and `vision_tower`, those that the recipe has.
        configs: of the model and its tower.
    """

    recipe: Recipe
    packing: Packing
    sources: Mapping[str, RemoteSource]
    packages: Packages
    serving: ServingPlan
    configs: Configs

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
    packages = resolve_packages(recipe, options.choice, progress)
    configs = source_configs(sources, recipe)
    cpu = packages.torch.cuda is None
    plan = Plan(
        recipe=recipe,
        packing=packing,
        sources=sources,
        packages=packages,
        serving=plan_serving(recipe, packing, options.target, configs, cpu=cpu),
        configs=configs,
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
    _stage(staging, plan, sources, fetched)
    recipe = plan.recipe
    rewrites = stage_packing(staging, plan.packing, recipe, sources)
    check_nothing_remote(staging)
    facts = BuildFacts(
        sources=sources,
        packing=plan.packing,
        entries=staging.entries,
        rewrites=rewrites,
        platform=plan.packages.platform,
        torch=plan.packages.torch,
        serving=plan.serving.profile,
        python=plan.packages.python.entry(),
        wheels=len(plan.packages.wheels) + 1,
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
) -> None:
    total_bytes = sum(file.size_bytes for file in fetched.values())
    staging.progress.start("stage wheels and runtime", total_bytes)
    packages = plan.packages
    minor, python = packages.platform.python, packages.python
    stage_wheels(staging, packages.wheels, fetched, minor)
    archive = None if python.archive is None else fetched[python.archive.name]
    stage_runtime(staging, fetched[packages.uv.filename], python, archive, minor)
    stage_installer(staging)
    stage_licences(staging, {_folder(plan.recipe, name): one for name, one in sources.items()})
    staging.progress.done()


def _folder(recipe: Recipe, source: str) -> str:
    """Return the name of a source's folder."""
    parts = {"model": recipe.model, "base": recipe.model.base, "vision_tower": recipe.vision_tower}
    part = parts[source]
    return source if part is None else part.name


def _fetch_files(plan: Plan, cache: Cache, progress: Progress) -> dict[str, FetchedFile]:
    wanted = [remote_wheel(wheel) for wheel in plan.packages.all_wheels]
    if plan.packages.python.archive is not None:
        wanted.append(plan.packages.python.archive)
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
