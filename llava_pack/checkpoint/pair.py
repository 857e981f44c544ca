"""A checkpoint in the original layout and its tower: whether they fit, and which tower it is."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from llava_pack.checkpoint.conformance import inside_defects
from llava_pack.checkpoint.defects import Defect
from llava_pack.checkpoint.findings import listed, pair_defects
from llava_pack.checkpoint.keymap import INSIDE
from llava_pack.checkpoint.kind import Kind, TowerChoice, with_trained_tower
from llava_pack.checkpoint.layout import Layout, survey
from llava_pack.checkpoint.tower import resolve_vision_tower
from llava_pack.checkpoint.tower_match import changed_tensors
from llava_pack.format.errors import CheckpointError, UsageError

_WHICH_TOWER = (
    "--tower packed takes those inside, --tower stock the tower beside it, as LLaVA's own code does"
)


def survey_pair(
    layout: Layout, tower_dir: Path | None = None
) -> tuple[Layout | None, list[Defect]]:
    """Return the tower of an original checkpoint, and where the two do not fit together.

    Args:
        layout: the checkpoint.
        tower_dir: `--vision-tower`; looked for as `resolve_vision_tower` does without it.
    """
    try:
        folder = resolve_vision_tower(layout.folder, layout.config, tower_dir)
    except CheckpointError as error:
        level: Literal["warn", "fail"] = "warn" if tower_dir is None else "fail"
        return None, [Defect(level, error.subject, error.message, error.hint)]
    return survey_tower(layout, folder)


def survey_tower(layout: Layout, folder: Path) -> tuple[Layout, list[Defect]]:
    """Return the tower in a folder, and where an original checkpoint and it do not fit together."""
    tower, defects = survey(folder, expect=Kind.TOWER)
    return tower, [*defects, *tower_defects(layout, tower)]


def tower_defects(layout: Layout, tower: Layout) -> list[Defect]:
    """Return where a checkpoint and a tower do not fit together."""
    defects = pair_defects(layout.config, tower.config, tower.preprocessor)
    inside = any(name.startswith(INSIDE) for name in layout.entries)
    if layout.vision_inside:
        return [*defects, *headers_defects(layout, tower)]
    if inside and (changed := changed_tensors(layout.weight_paths, tower.weight_paths)):
        text = (
            "unfreeze_mm_vision_tower is not true, so LLaVA would take the tower beside it, but "
            f"{len(changed)} of the vision tensors inside are others: {listed(changed)}"
        )
        defects.append(Defect("fail", "config.json", text, _WHICH_TOWER))
    return defects


def headers_defects(layout: Layout, tower: Layout) -> list[Defect]:
    """Return what is wrong with a tower inside that is used, as far as names and shapes show it."""
    if not layout.vision_inside:
        return []
    inside = {name: one for name, one in layout.entries.items() if name.startswith(INSIDE)}
    return inside_defects(layout.config, tower.config, inside)


def with_tower(layout: Layout, choice: TowerChoice | None) -> Layout:
    """Return a checkpoint of which a person has said which tower it is to have.

    Args:
        layout: in the original layout.
        choice: `packed` is the one inside it, `stock` the one beside it; None leaves it to LLaVA's
            rule, which is that of its configuration.

    Raises:
        UsageError: there is none inside.
    """
    if choice is None:
        return layout
    inside = {name for name in layout.entries if name.startswith(INSIDE)}
    if not inside:
        raise UsageError(
            f"{layout.folder.name} has no vision tower inside to choose",
            subject="--tower",
            hint="leave it out",
        )
    config = with_trained_tower(layout.config, trained=choice == "packed")
    if choice == "packed":
        return replace(layout, config=config)
    entries = {name: one for name, one in layout.entries.items() if name not in inside}
    return replace(layout, config=config, entries=entries)
