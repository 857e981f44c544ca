"""The sources of a model: checkpoint or adapter, its base, its tower."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from llava_pack.assemble.components import chosen_tower, completed
from llava_pack.assemble.floors import Configs
from llava_pack.assemble.runtimes import packed_for
from llava_pack.assemble.sources import Fetched, Identified, Listed
from llava_pack.checkpoint.based import check_based
from llava_pack.checkpoint.defects import Defect, refuse
from llava_pack.checkpoint.findings import side_defects
from llava_pack.checkpoint.kind import WHOLE, Kind, TowerChoice
from llava_pack.checkpoint.layout import Layout, named_defects, read_layout
from llava_pack.checkpoint.pair import headers_defects, tower_defects, with_tower
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.directory import DirectorySource
from llava_pack.fetch.hub import HubSource
from llava_pack.fetch.mirrors import USUAL, Mirror
from llava_pack.fetch.schemes import given_source, parse_source
from llava_pack.fetch.source import Listing, Source
from llava_pack.format.errors import RecipeError, UsageError
from llava_pack.format.progress import Progress
from llava_pack.recipe import Recipe, RecipeFile
from llava_pack.shipped import shipped

Sources = Mapping[str, Source]
"""Where the parts of a model come from, by `model`, `base` and `vision_tower`."""


def recipe_sources(
    recipe: RecipeFile,
    pins: Mapping[str, str] | None,
    given: Sources | None = None,
    mirror: Mirror = USUAL,
) -> Sources:
    """Return where the parts of a recipe come from; nothing is asked for.

    Args:
        recipe: what is asked for.
        pins: a lock's, for the same parts; None leaves each as the recipe has it.
        given: by a person, in place of the recipe's.
        mirror: the Hub is asked there.

    Raises:
        RecipeError: one is not a source, or a lock has others.
        UsageError: one is given that a lock has already.
    """
    by_hand = given or {}
    sources = {
        name: by_hand.get(name) or parse_source(part.source, base=recipe.folder)
        for name, part in recipe.value.parts().items()
    }
    if pins is None:
        return _mirrored(sources, mirror)
    if pins.keys() != sources.keys():
        raise RecipeError(
            f"expected sources of {', '.join(sources)}, got {', '.join(pins) or 'none'}",
            subject="lock",
        )
    pinned = {
        name: _pinned(name, source, pins[name], by_hand=name in by_hand)
        for name, source in sources.items()
    }
    return _mirrored(pinned, mirror)


def _mirrored(sources: Sources, mirror: Mirror) -> Sources:
    return {
        name: replace(source, mirror=mirror.hub) if isinstance(source, HubSource) else source
        for name, source in sources.items()
    }


def given_sources(recipe: Recipe, typed: Mapping[str, str]) -> Sources:
    """Return the sources that a person gives in place of a recipe's.

    Args:
        recipe: names its parts.
        typed: by part.

    Raises:
        UsageError: one is neither a source nor a folder, or the recipe has no such part.
    """
    parts = recipe.parts()
    if strangers := sorted(typed.keys() - parts.keys()):
        raise UsageError(
            f"the recipe has no {strangers[0]}, it has {', '.join(parts)}",
            subject=option_of(strangers[0]),
            hint="leave it out",
        )
    return {
        part: given_source(text, parts[part].name, option_of(part)) for part, text in typed.items()
    }


def option_of(part: str) -> str:
    """Return the option that says where a part comes from.

    >>> option_of("model"), option_of("vision_tower")
    ('--model', '--tower')
    """
    return f"--{part.removeprefix('vision_')}"


def _pinned(part: str, source: Source, pinned: str, *, by_hand: bool) -> Source:
    """Return a part's source as a lock has it: with a lock, it decides.

    Raises:
        UsageError: the lock has it, and another is given.
        RecipeError: the lock was written with a folder, which is not given now, or pins no commit.
    """
    option = option_of(part)
    local, was_local = isinstance(source, DirectorySource), pinned.startswith("dir:")
    if was_local and not local:
        raise RecipeError(
            f"written with a folder for the {part}, {pinned}, which a lock cannot bring back",
            subject="lock",
            hint=f"give the same folder again: {option} DIR",
        )
    if by_hand and not was_local:
        raise UsageError(
            f"the lock decides it: {pinned}", subject=option, hint=f"leave out {option}"
        )
    if was_local:
        return source
    return parse_source(pinned).at(pinned)  # perhaps one that was given when the lock was written


def replacements(
    recipe: RecipeFile, sources: Sources, given: Sources
) -> Iterator[tuple[str, Source]]:
    """Yield each part from elsewhere than the recipe says, and what the recipe means by it.

    Its digests are held against what comes; what the recipe has none of, is taken as it is.

    Args:
        recipe: says where parts come from.
        sources: where they do come from.
        given: those of them that a person gave; a lock may have others.
    """
    for name, part in recipe.value.parts().items():
        meant, source = parse_source(part.source, base=recipe.folder), sources[name]
        same = str(meant).partition("@")[0] == str(source).partition("@")[0]
        if same and (name not in given or meant == source):
            continue
        yield name, meant


def identify_sources(
    recipe: Recipe, sources: Sources, work: Path, cache: Cache, progress: Progress
) -> dict[str, Identified]:
    """List every source, fetch its small files, and check that it is what it is for.

    Raises:
        PackError: the first source that cannot be had, or is of another kind.
        RecipeError: values are given for a configuration that is there.
    """
    kinds = {
        "model": _model_kinds(recipe),
        "base": _base_kinds(recipe),
        "vision_tower": (Kind.TOWER,),
    }
    found = {}
    for name, part in recipe.parts().items():
        listing = _listing(sources[name])
        listed = Listed(listing=listing, expected=part.files, cache=cache, folder=work / name)
        found[name] = listed.identify(kinds[name], progress)
    if recipe.model.values and found["model"].config:
        raise RecipeError(
            "the source has a config.json, so nothing would read what the recipe says beside it",
            subject=f"{recipe.name}: model.values",
            hint="take [model.values] out of the recipe",
        )
    return found


def _model_kinds(recipe: Recipe) -> tuple[Kind, ...]:
    converted = recipe.model.format == "hf"
    if recipe.model.base is not None:
        return (Kind.LORA,) if converted else (Kind.LORA, Kind.PROJECTOR)
    return WHOLE if converted else (Kind.ORIGINAL,)


def _base_kinds(recipe: Recipe) -> tuple[Kind, ...]:
    converted = recipe.model.format == "hf"
    return (Kind.CONVERTED,) if converted else (Kind.LANGUAGE, Kind.ORIGINAL)


def _listing(source: Source) -> Listing:
    """Return what a source holds; say what to do where this copy of llava-pack has no demo model.

    Raises:
        PackError: it cannot be had.
    """
    folder = source.folder if isinstance(source, DirectorySource) else None
    if folder and folder.is_relative_to(shipped("bundles")) and not folder.is_dir():
        raise RecipeError(
            "its folder is not part of this copy of llava-pack",
            subject=source.public,
            hint="the demo's is in llava-pack's repository: clone it, then make demo; for a folder "
            "of your own, copy the recipe beside it",
        )
    return source.list()


def check_servable(
    identified: Mapping[str, Identified],
    recipe: Recipe,
    configs: Configs,
    progress: Progress,
    choice: TowerChoice | None = None,
) -> Mapping[str, Layout]:
    """Refuse what the bundle's runtime could not load, before weights are fetched; tell warnings.

    What is known of the sources by then is returned, but of a projector, which others complete.

    Args:
        identified: the sources, their small files fetched.
        recipe: names the runtime.
        configs: of model and tower, in the original keys.
        progress: told every warning.
        choice: which tower, where the one inside the checkpoint is another than the stock one.

    Raises:
        UsageError: a tower was chosen, and there is none inside.
        CheckpointError: with the reason that the server would give.
    """
    config, tower_config = configs
    layouts = {}
    defects: list[Defect] = []
    for name, source in identified.items():
        if source.kind is not Kind.PROJECTOR:  # what it lacks is completed from the others
            layouts[name], more = source.survey()
            defects += more
    whole = identified["model"]
    if whole.kind in WHOLE:
        defects += packed_for(recipe).whole_defects(whole.kind, whole.config)
    if "model" in layouts:
        defects += named_defects(layouts["model"], recipe.model.name)
    if tower := layouts.get("vision_tower"):
        defects += side_defects(config, tower_config)
        defects += packed_for(recipe).servable(config, tower_config, tower.preprocessor)
    seen = {name: one for name, one in layouts.items() if _is_seen(one, identified[name])}
    if tower and "model" in seen:
        defects += headers_defects(with_tower(seen["model"], choice), tower)
    for defect in dict.fromkeys(defects):
        if defect.level == "warn":
            progress.note(f"! {defect}")
    refuse(defects, subject=str(identified["model"].pinned))
    if "base" in seen and "model" in seen:
        check_based(seen["model"], seen["base"])
    return layouts


def _is_seen(layout: Layout, source: Identified) -> bool:
    """Say whether the tensors of all of a source's weight files are known by now."""
    return set(layout.weight_files) == set(source.weights)


def fetch_sources(
    identified: Mapping[str, Identified],
    recipe: Recipe,
    progress: Progress,
    choice: TowerChoice | None = None,
) -> dict[str, Fetched]:
    """Fetch every source whole, and refuse what is damaged or does not fit together.

    Args:
        identified: the sources, their small files fetched.
        recipe: names them.
        progress: told what is fetched.
        choice: which tower, where the one inside the checkpoint is another than the stock one.

    Raises:
        PackError: what fetching raises.
        CheckpointError: a part is damaged, or they do not fit.
    """
    kind = identified["model"].kind
    sources = {"model": identified["model"].fetch(progress)}
    if kind is Kind.LORA:  # it is small, and its base is not
        read_layout(sources["model"].folder, expect=kind)
    rest = {name: one for name, one in identified.items() if name not in sources}
    sources |= {name: source.fetch(progress) for name, source in rest.items()}
    if kind is Kind.PROJECTOR:
        base, tower = sources["base"], sources["vision_tower"]
        sources["model"] = completed(sources["model"], base, tower, recipe)
    model = read_layout(sources["model"].folder, expect=kind)
    if "base" in sources:
        check_based(model, read_layout(sources["base"].folder, expect=identified["base"].kind))
    if "vision_tower" in sources:
        tower = sources["vision_tower"]
        vision = read_layout(tower.folder, expect=Kind.TOWER)
        model, sources["model"] = chosen_tower(model, sources["model"], choice)
        refuse(tower_defects(model, vision), subject=tower.pinned.public)
    return sources
