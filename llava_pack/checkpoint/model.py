"""A whole LLaVA, in whichever form it was published; looked at, not loaded.

One folder with its tower beside it (the original layout), one with everything inside (as
transformers writes it, also with linears that were quantized ahead), or an adapter or a projector
with the language model that it was trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.based import BASED, check_based, main_layout
from llava_pack.checkpoint.defects import refuse
from llava_pack.checkpoint.elsewhere import own_defects
from llava_pack.checkpoint.kind import Kind, TowerChoice
from llava_pack.checkpoint.layout import Layout, read_layout
from llava_pack.checkpoint.network import Network, network
from llava_pack.checkpoint.pair import survey_tower, with_tower
from llava_pack.checkpoint.pictures import PictureRules, picture_rules
from llava_pack.checkpoint.quantized import precision_ahead
from llava_pack.checkpoint.tower import resolve_vision_tower
from llava_pack.format.errors import CheckpointError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The folders that make one model.

    Attributes:
        model: what was given.
        tower: None where the tower is inside the model's folder, configuration and all.
        base: what an adapter or a projector was trained on.
        network: what is built of it.
        pictures: how they are prepared.
    """

    model: Layout
    tower: Layout | None = None
    base: Layout | None = None
    network: Network
    pictures: PictureRules

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of its parts."""
        parts = (self.model, self.tower, self.base)
        return tuple(part.folder for part in parts if part is not None)

    @property
    def main(self) -> Layout:
        """The folder whose config.json counts: the base's, of an adapter over a converted LLaVA."""
        return main_layout(self.model, self.base)

    @property
    def native(self) -> bool:
        """Whether the folder is in transformers' own layout."""
        return self.main.kind is Kind.CONVERTED

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration in the original keys."""
        return self.main.original

    @property
    def texts(self) -> Path:
        """The folder with the tokenizer and the ends of an answer."""
        return (self.base or self.model).folder

    @property
    def tower_config(self) -> Mapping[str, Any]:
        """The tower's configuration."""
        return (self.tower or self.main).tower_config

    @property
    def quantized(self) -> str | None:
        """`nf4` or `int8` where the linears were quantized ahead.

        Raises:
            CheckpointError: they were quantized in another way.
        """
        return precision_ahead(self.main.config)


def read_checkpoint(
    model_dir: Path,
    vision_tower: Path | None = None,
    model_base: Path | None = None,
    choice: TowerChoice | None = None,
) -> Checkpoint:
    """Return a checkpoint with what belongs to it.

    Args:
        model_dir: the model, an adapter or a projector.
        vision_tower: the tower's folder, where the checkpoint does not say it.
        model_base: what an adapter or a projector was trained on.
        choice: which tower, where the one inside is another than the one beside it.

    Raises:
        CheckpointError: a part is missing, damaged or not supported, or the parts do not fit
            together; all defects are told at once.
        UsageError: a folder was given that this model has no use for.
    """
    model = read_layout(model_dir)
    refuse(own_defects(model.kind, model.config), subject=model_dir.name)
    if model.kind not in (Kind.ORIGINAL, Kind.CONVERTED, *BASED):
        read_layout(model_dir, expect=Kind.ORIGINAL)
    _check_use(model, model_base)
    base = _base(model, model_base) if model.kind in BASED else None
    if main_layout(model, base).kind is Kind.CONVERTED:
        _check_tower_use(model, vision_tower)
        return _whole(model, None, base)
    model = with_tower(model, choice)
    tower_dir = resolve_vision_tower(model.folder, model.config, vision_tower)
    tower, defects = survey_tower(model, tower_dir)
    refuse(defects, subject=model_dir.name)
    return _whole(model, tower, base)


def _whole(model: Layout, tower: Layout | None, base: Layout | None) -> Checkpoint:
    main = main_layout(model, base)
    vision = tower or main
    made = network(main.original, vision.tower_config)
    pictures = picture_rules(vision.preprocessor, main.original, made.tower)
    return Checkpoint(model=model, tower=tower, base=base, network=made, pictures=pictures)


def _check_use(model: Layout, model_base: Path | None) -> None:
    if model_base is not None and model.kind not in BASED:
        raise UsageError(
            f"{model.folder.name} is a complete model; only an adapter or a projector takes a base",
            subject="--model-base",
            hint="leave out --model-base",
        )


def _check_tower_use(model: Layout, vision_tower: Path | None) -> None:
    if vision_tower is not None:
        raise UsageError(
            f"{model.folder.name} includes its vision tower",
            subject="--vision-tower",
            hint="leave out --vision-tower",
        )


def _base(model: Layout, given: Path | None) -> Layout:
    """Return what an adapter or a projector was trained on: the one given, or the one it names.

    A bundle names it as a path; one that was trained elsewhere, as a Hub id.
    """
    named = model.base_model or model.config.get("_name_or_path")
    there = model.folder / named if isinstance(named, str) and named else None
    folder = given or there
    if folder is None or not (given or (folder / "config.json").is_file()):
        raise CheckpointError(
            f"{model.kind.description}: its base model is missing, config.json names {named!r}",
            subject=model.folder.name,
            hint="pass that model's folder with --model-base DIR",
        )
    base = read_layout(folder)
    check_based(model, base)
    return base
