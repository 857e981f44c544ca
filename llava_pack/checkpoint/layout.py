"""A checkpoint's folder, read: its kind, its tensors, and everything that is wrong with it.

Only headers and small files are read; opening a folder of 13 GB takes a moment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.config import parse_config, vision_tower_id
from llava_pack.checkpoint.defects import Defect, defect_of, refuse
from llava_pack.checkpoint.findings import (
    code_defects,
    index_defects,
    kind_defects,
    shape_defects,
    vision_defects,
)
from llava_pack.checkpoint.kind import Kind, backbone, classify, has_tiles
from llava_pack.checkpoint.routing import routing_defects
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.checkpoint.weight_file import open_weights
from llava_pack.checkpoint.weight_set import find_weights
from llava_pack.format.errors import CheckpointError

_CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "adapter_config.json",
)
_EXTRA_WEIGHTS = (
    "mm_projector.safetensors",
    "mm_projector.bin",
    "non_lora_trainables.safetensors",
    "non_lora_trainables.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a checkpoint's folder holds."""

    folder: Path
    kind: Kind
    config: Mapping[str, Any]
    weight_files: tuple[str, ...]
    entries: Mapping[str, TensorEntry] = field(repr=False)
    places: Mapping[str, str] = field(repr=False)
    """Tensor name to the name of the file that holds it."""

    @property
    def vision_tower(self) -> str | None:
        """What the configuration names as its tower."""
        return vision_tower_id(self.config)

    @property
    def vision_inside(self) -> bool:
        """Whether the checkpoint's own vision tensors are the ones that LLaVA uses."""
        trained = bool(self.config.get("unfreeze_mm_vision_tower", False))
        return trained and any(name.startswith("model.vision_tower.") for name in self.entries)

    @property
    def language(self) -> str:
        """The language model's type."""
        return backbone(self.config)

    @property
    def tiles(self) -> bool:
        """Whether pictures are cut into tiles."""
        return has_tiles(self.config)

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.size_bytes for entry in self.entries.values())


def read_layout(folder: Path, *, expect: Kind | None = None) -> Layout:
    """Return what a folder holds.

    Args:
        folder: a checkpoint.
        expect: the kind that is meant, where there is one.

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
        raise CheckpointError("there is no such folder", subject=str(folder))
    folder = folder.absolute()
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    configs, defects = _configs(folder, names)
    weights = find_weights(names, lambda name: (folder / name).read_bytes())
    extra = tuple(name for name in _EXTRA_WEIGHTS if name in names)
    files = weights.files or extra
    held, unreadable = _held(folder, files)
    defects += [*weights.defects, *unreadable]
    config = configs.get("config.json", {})
    layout = _layout(folder, names, config, files, held)
    if weights.index:
        defects += index_defects(weights.index, weights.places, held)
    defects += kind_defects(folder.name, layout.kind, expect)
    defects += code_defects(names, configs)
    defects += routing_defects(folder.name, layout.kind, config)
    if not files and not weights.defects:
        defects.append(Defect("fail", folder.name, "there are no weights in this folder"))
    if layout.kind is Kind.ORIGINAL:
        whole = bool(files) and not (weights.defects or unreadable)
        defects += shape_defects(config, layout.entries) if whole else []
        defects += vision_defects(config, layout.entries)
    return layout, defects


def _configs(folder: Path, names: list[str]) -> tuple[dict[str, dict[str, Any]], list[Defect]]:
    configs: dict[str, dict[str, Any]] = {}
    defects: list[Defect] = []
    for name in _CONFIGS:
        if name not in names:
            continue
        try:
            configs[name] = parse_config((folder / name).read_bytes(), subject=name)
        except CheckpointError as error:
            defects.append(defect_of(error))
    if "config.json" not in names:
        defects.append(Defect("fail", "config.json", "is missing"))
    return configs, defects


def _held(
    folder: Path, files: tuple[str, ...]
) -> tuple[dict[str, dict[str, TensorEntry]], list[Defect]]:
    held: dict[str, dict[str, TensorEntry]] = {}
    defects: list[Defect] = []
    for name in files:
        try:
            file = open_weights(folder / name)
        except CheckpointError as error:
            defects.append(defect_of(error))
        else:
            held[name] = {entry.name: entry for entry in file.entries}
            file.close()
    return held, defects


def _layout(
    folder: Path,
    names: list[str],
    config: Mapping[str, Any],
    files: tuple[str, ...],
    held: Mapping[str, Mapping[str, TensorEntry]],
) -> Layout:
    entries = {name: entry for tensors in held.values() for name, entry in tensors.items()}
    places = {name: file for file, tensors in held.items() for name in tensors}
    return Layout(
        folder=folder,
        kind=classify(names, config, entries),
        config=config,
        weight_files=files,
        entries=entries,
        places=places,
    )
