"""A checkpoint's folder, read: its kind, its tensors, and everything that is wrong with it.

Only headers and small files are read; opening a folder of 13 GB takes a moment.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.adapter import over_converted
from llava_pack.checkpoint.adapter_findings import trainables_defects
from llava_pack.checkpoint.config import parse_config, read_small, vision_tower_id
from llava_pack.checkpoint.conformance import conformance_defects
from llava_pack.checkpoint.converted import as_original, converted_tower
from llava_pack.checkpoint.defects import Defect, defect_of, refuse
from llava_pack.checkpoint.findings import (
    code_defects,
    file_defects,
    index_defects,
    kind_defects,
    vocabulary_defects,
)
from llava_pack.checkpoint.folder import (
    checkpoint_folder,
    checkpoint_name,
    foreign_defects,
    leftover_defects,
    no_weights_hint,
)
from llava_pack.checkpoint.keymap import INSIDE, tower_name
from llava_pack.checkpoint.kind import (
    ADAPTERS,
    PROJECTORS,
    TRAINABLES,
    Kind,
    backbone,
    classify,
    has_tiles,
    trains_tower,
)
from llava_pack.checkpoint.native import native_text_defects
from llava_pack.checkpoint.picture_words import check_picture_ends
from llava_pack.checkpoint.pictures import PREPROCESSORS, preprocessor_of
from llava_pack.checkpoint.routing import routing_defects
from llava_pack.checkpoint.servable import engine_defects
from llava_pack.checkpoint.special_tokens import check_tokenizer
from llava_pack.checkpoint.template_choice import template_defects
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.checkpoint.token_files import eos_ids
from llava_pack.checkpoint.weight_file import Look, held_tensors, known_tensors, repeated_tensors
from llava_pack.checkpoint.weight_set import WeightSet, find_weights
from llava_pack.format.errors import CheckpointError

_CONFIGS = ("config.json", "tokenizer_config.json", *PREPROCESSORS, "adapter_config.json")

Names = Collection[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a checkpoint's folder holds."""

    folder: Path
    kind: Kind
    config: Mapping[str, Any]
    base_model: str | None
    """What an adapter names as its base."""
    weight_files: tuple[str, ...]
    entries: Mapping[str, TensorEntry] = field(repr=False)
    places: Mapping[str, str] = field(repr=False)
    """Tensor name to the name of the file that holds it."""

    preprocessor: Mapping[str, Any] = field(repr=False)
    """How its tower, or the folder itself, wants pictures; empty where no file says it."""

    @property
    def original(self) -> Mapping[str, Any]:
        """The configuration in the original keys.

        Raises:
            CheckpointError: a converted one has a value that has no counterpart there.
        """
        if self.kind is not Kind.CONVERTED:
            return self.config
        return as_original(self.config, self.preprocessor)

    @property
    def tower_config(self) -> Mapping[str, Any]:
        """The configuration of the tower that the folder is, or includes."""
        if self.kind is not Kind.CONVERTED:
            return self.config
        return {"vision_config": converted_tower(self.config)}

    @property
    def name(self) -> str:
        """What the checkpoint is called."""
        return checkpoint_name(self.folder)

    @property
    def vision_tower(self) -> str | None:
        """What the configuration names as its tower."""
        return vision_tower_id(self.config)

    @property
    def vision_inside(self) -> bool:
        """Whether the checkpoint's own vision tensors are the ones that LLaVA uses."""
        return trains_tower(self.config) and any(name.startswith(INSIDE) for name in self.entries)

    @property
    def over_converted(self) -> bool:
        """Whether this is an adapter over a converted LLaVA, whose config.json says everything."""
        return self.kind is Kind.LORA and over_converted(self.entries)

    @property
    def language(self) -> str:
        """The language model's type."""
        return backbone(self.config)

    @property
    def tiles(self) -> bool:
        """Whether pictures are cut into tiles."""
        return has_tiles(self.config)

    @property
    def weight_paths(self) -> tuple[Path, ...]:
        """Where its weight files are."""
        return tuple(self.folder / name for name in self.weight_files)

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.size_bytes for entry in self.entries.values())


def read_layout(folder: Path, *, expect: Kind | None = None) -> Layout:
    """Return what a folder holds.

    Raises:
        CheckpointError: it is damaged, unknown or of another kind; one error tells every defect.
    """
    layout, defects = survey(folder, expect=expect)
    refuse(defects, subject=folder.name)
    return layout


def survey(folder: Path, *, expect: Kind | None = None) -> tuple[Layout, list[Defect]]:
    """Return what a folder holds and every defect of it, warnings included.

    Raises:
        CheckpointError: there is no such folder.
    """
    if not folder.is_dir():
        raise CheckpointError(
            "there is no such folder",
            subject=str(folder),
            hint="a checkpoint is a folder on this machine: nothing is downloaded here; "
            "llava-pack build fetches and packs one",
        )
    folder = checkpoint_folder(folder.absolute())
    inside, look = sorted(folder.iterdir()), partial(held_tensors, folder)
    names = [path.name for path in inside if path.is_file()]
    folders = [path.name for path in inside if path.is_dir()]
    layout, defects = survey_files(folder, names, look, expect=expect, folders=folders)
    if expect is None or layout.kind is expect:
        defects += named_defects(layout, layout.name)
        defects += template_defects(folder, layout.kind)
    defects += leftover_defects([path.name for path in inside])
    return layout, list(dict.fromkeys(defects))


def named_defects(layout: Layout, name: str) -> list[Defect]:
    """Return a warning for each way in which LLaVA's own code would misread a folder's name."""
    if layout.over_converted:  # that code reads no such adapter
        return []
    return routing_defects(name, layout.kind, layout.config)


def survey_files(
    folder: Path, names: list[str], look: Look, *, expect: Kind | None = None, folders: Names = ()
) -> tuple[Layout, list[Defect]]:
    """Return what a folder holds, or will hold, and every defect that is known of it.

    Args:
        folder: with the small files; of the weights, only names are needed.
        names: of all of its files.
        look: gives the tensors of weight files; those that it leaves out are not known yet.
        expect: the kind that is meant.
        folders: names of those in it.
    """
    configs, defects = _configs(folder, names)
    config = configs.get("config.json", {})
    weights = find_weights(names, lambda name: read_small(folder / name))
    files = _files(names, weights, classify(names, config))
    held, broken = look(files)
    broken = [*weights.defects, *broken, *repeated_tensors(held)]
    foreign, seen = foreign_defects(names, config), len(held) == len(files)
    layout = _layout(folder, names, configs, held)
    unknown = layout.kind is Kind.LORA and not seen
    if "config.json" not in names and not (layout.over_converted or unknown):
        defects.append(Defect("fail", "config.json", "is missing"))
    strange = kind_defects(folder.name, layout.kind, expect)
    defects += [*foreign, *broken, *strange]
    if weights.index:
        defects += index_defects(weights.index, weights.places, held)
    defects += code_defects(names, configs, layout.kind)
    if not (files or broken or foreign):
        text, hint = "this folder contains no weights", no_weights_hint([*names, *folders])
        defects.append(Defect("fail", folder.name, text, hint))
    if strange:
        return layout, defects
    defects += file_defects(names, layout.kind)
    if layout.kind is Kind.LORA and seen:
        defects += trainables_defects(names, layout.entries)
    if files and not (broken or foreign) and (weights.places or seen):
        adapter = configs.get("adapter_config.json", {})
        entries, packed = known_tensors(weights, held, files)
        if layout.kind is Kind.TOWER:
            entries = {tower_name(name): entry for name, entry in entries.items()}
            packed = frozenset(map(tower_name, packed))
        known = {} if layout.over_converted else config
        defects += conformance_defects(layout.kind, known, adapter, entries, packed)
    if layout.kind is Kind.CONVERTED:
        defects += _rules(layout)
    defects += _vocabulary(folder, layout)
    return layout, list(dict.fromkeys(defects))


def _rules(layout: Layout) -> list[Defect]:
    """Return why no engine can be made of a converted folder's small files."""
    try:
        original = layout.original
    except CheckpointError as error:
        return [defect_of(error)]
    return engine_defects(original, layout.tower_config, layout.preprocessor)


def _files(names: list[str], weights: WeightSet, kind: Kind) -> tuple[str, ...]:
    """Return the files whose tensors make up a checkpoint of this kind."""
    if kind is Kind.LORA:
        return tuple(name for name in (*ADAPTERS, *TRAINABLES) if name in names)
    if kind is Kind.PROJECTOR:
        return tuple(name for name in PROJECTORS if name in names)
    return weights.files


def _configs(folder: Path, names: list[str]) -> tuple[dict[str, dict[str, Any]], list[Defect]]:
    configs: dict[str, dict[str, Any]] = {}
    defects: list[Defect] = []
    for name in _CONFIGS:
        if name not in names:
            continue
        try:
            configs[name] = parse_config(read_small(folder / name), subject=name)
        except CheckpointError as error:
            defects.append(defect_of(error))
    return configs, defects


def _layout(
    folder: Path,
    names: list[str],
    configs: Mapping[str, Mapping[str, Any]],
    held: Mapping[str, Mapping[str, TensorEntry]],
) -> Layout:
    config = configs.get("config.json", {})
    entries = {name: entry for tensors in held.values() for name, entry in tensors.items()}
    kind = classify(names, config, entries)
    if kind is Kind.TOWER:
        entries = {tower_name(name): entry for name, entry in entries.items()}
    places = {name: file for file, tensors in held.items() for name in tensors}
    base = configs.get("adapter_config.json", {}).get("base_model_name_or_path")
    return Layout(
        folder=folder,
        kind=kind,
        config=config,
        preprocessor=preprocessor_of(configs),
        base_model=base if isinstance(base, str) and base else None,
        weight_files=tuple(held),
        entries=entries,
        places=places,
    )


def _vocabulary(folder: Path, layout: Layout) -> list[Defect]:
    """Return why the tokenizer cannot be used, and where it has words without a row."""
    if layout.kind is Kind.TOWER:
        return []
    try:
        eos_ids(folder)
        if layout.kind not in {Kind.ORIGINAL, Kind.CONVERTED, Kind.LANGUAGE}:
            return native_text_defects(folder, layout.kind)
        model = check_tokenizer(folder)
        check_picture_ends(folder, layout.original)
    except CheckpointError as error:
        return [defect_of(error)]
    if model is None or layout.kind is Kind.CONVERTED:
        return []
    return vocabulary_defects(len(model.pieces), layout.config)
