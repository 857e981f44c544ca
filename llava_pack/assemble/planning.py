"""What a build is asked for, and what it found before anything heavy is fetched."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_pack.assemble.floors import Configs
from llava_pack.assemble.model_sources import list_sources
from llava_pack.assemble.packages import Packages, resolve_packages
from llava_pack.assemble.packing import Format, Packing, choose_packing
from llava_pack.assemble.seal import check_output
from llava_pack.assemble.serving import ServingPlan, plan_serving, source_configs
from llava_pack.assemble.sources import RemoteSource
from llava_pack.checkpoint.kind import Kind
from llava_pack.convert.quantize import Precision, need_torch
from llava_pack.fetch.cache import Cache
from llava_pack.format.progress import Progress
from llava_pack.format.target import TargetProfile
from llava_pack.lock.choice import Choice
from llava_pack.recipe import Recipe, read_recipe


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
    work = work_folder(options.out)
    sources = list_sources(recipe, options.recipe.parent, work, cache, progress)
    if packing.merge and sources["model"].kind is Kind.LORA:
        need_torch("merging an adapter")
    packages = resolve_packages(recipe, options.choice, progress)
    configs = source_configs(sources, recipe)
    cpu = packages.torch.cuda is None
    return Plan(
        recipe=recipe,
        packing=packing,
        sources=sources,
        packages=packages,
        serving=plan_serving(recipe, packing, options.target, configs, cpu=cpu),
        configs=configs,
    )


def work_folder(out: Path) -> Path:
    """Return where the sources of a bundle are laid out while it is built."""
    return out.with_name(f"{out.name}.sources")
