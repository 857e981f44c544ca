"""The sources of a model: checkpoint or adapter, its base, its tower; listed, then fetched."""

from collections.abc import Mapping
from pathlib import Path

from llava_pack.assemble.components import completed
from llava_pack.assemble.sources import Fetched, RemoteSource
from llava_pack.checkpoint.defects import refuse
from llava_pack.checkpoint.findings import pair_defects
from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.layout import read_layout
from llava_pack.fetch.cache import Cache
from llava_pack.format.errors import RecipeError
from llava_pack.format.progress import Progress
from llava_pack.recipe import Recipe
from llava_pack.shipped import shipped


def list_sources(
    recipe: Recipe, base_dir: Path, work: Path, cache: Cache, progress: Progress
) -> dict[str, RemoteSource]:
    """List what the recipe names, fetch the small files, and check that each is what it is for.

    Args:
        recipe: what is asked for.
        base_dir: where relative `dir:` sources start.
        work: the files are laid out below it.
        cache: what is fetched stays here.
        progress: told what is fetched.

    Raises:
        PackError: the first source that cannot be had, or is of another kind.
    """
    model, base, tower = recipe.model, recipe.model.base, recipe.vision_tower
    adapted = (Kind.LORA, Kind.PROJECTOR)
    whole = (Kind.CONVERTED,) if model.format == "hf" else (Kind.ORIGINAL,)
    parts = {
        "model": (model.source, adapted if base else whole, model.files),
        "base": (base.source, (Kind.LANGUAGE,), base.files) if base else None,
        "vision_tower": (tower.source, (Kind.TOWER,), tower.files) if tower else None,
    }
    sources: dict[str, RemoteSource] = {}
    for name, part in parts.items():
        if part is None:
            continue
        text, kinds, files = part
        _check_beside(text, base_dir)
        source = RemoteSource(text, base_dir, cache, work / name)
        source.small(progress)
        source.check_kind(*kinds)
        source.check_expected(files)
        sources[name] = source
    return sources


def _check_beside(text: str, base_dir: Path) -> None:
    """Say what to do where a shipped recipe's folder is not part of this copy of llava-pack.

    Raises:
        RecipeError: it is not there.
    """
    path = text.removeprefix("dir:")
    if text == path or base_dir != shipped("bundles") or (base_dir / path).expanduser().is_dir():
        return
    raise RecipeError(
        "its folder is not part of this copy of llava-pack",
        subject=text,
        hint="the demo's is in llava-pack's repository: clone it, then make demo; for a folder of "
        "your own, copy the recipe beside it",
    )


def fetch_sources(
    listed: Mapping[str, RemoteSource], recipe: Recipe, progress: Progress
) -> dict[str, Fetched]:
    """Fetch every source whole, and refuse what is damaged or does not fit together.

    Raises:
        PackError: what fetching raises.
        CheckpointError: a part is damaged, or they do not fit.
    """
    sources = {name: source.whole(progress) for name, source in listed.items()}
    kind = listed["model"].kind
    if kind is Kind.PROJECTOR:
        base, tower = sources["base"], sources["vision_tower"]
        sources["model"] = completed(sources["model"], base, tower, recipe)
    model = read_layout(sources["model"].folder, expect=kind)
    if "base" in sources:
        read_layout(sources["base"].folder, expect=Kind.LANGUAGE)
    if "vision_tower" in sources:
        tower = sources["vision_tower"]
        vision = read_layout(tower.folder, expect=Kind.TOWER)
        misfits = pair_defects(model.config, vision.config, vision.entries)
        refuse(misfits, subject=tower.pinned)
    return sources
