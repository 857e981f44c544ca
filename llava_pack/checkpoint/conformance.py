"""Whether the tensors are those that the configuration promises, kind by kind. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from llava_pack.checkpoint.adapter_findings import adapter_defects
from llava_pack.checkpoint.converted import as_original, original_entries
from llava_pack.checkpoint.defects import Defect, defect_of
from llava_pack.checkpoint.expected import (
    Shapes,
    language_shapes,
    projector_shapes,
    tower_shapes,
)
from llava_pack.checkpoint.findings import SHOWN, listed, vision_defects
from llava_pack.checkpoint.keymap import projector_name
from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.quantized import unpacked
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.format.errors import CheckpointError

Config = Mapping[str, Any]
Entries = Mapping[str, TensorEntry]


def conformance_defects(
    kind: Kind, config: Config, adapter: Config, entries: Entries
) -> list[Defect]:
    """Return tensors that are absent, of another shape, or of no use."""
    if kind is Kind.ORIGINAL:
        parts = (language_shapes, projector_shapes)
        return [*_promised(config, entries, parts), *vision_defects(config, entries)]
    if kind is Kind.CONVERTED:
        return _converted_defects(config, entries)
    if kind is Kind.TOWER:
        return _promised(config, entries, (tower_shapes,))
    if kind is Kind.LANGUAGE:
        return _promised(config, entries, (language_shapes,))
    if kind is Kind.PROJECTOR:
        return _projector_defects(config, entries)
    if kind is Kind.LORA:
        return adapter_defects(config, adapter, entries)
    return []


def _promised(
    config: Config, entries: Entries, parts: Iterable[Callable[[Config], Shapes]]
) -> list[Defect]:
    """Return what is wrong with the tensors of each part, after what is wrong with the config."""
    defects: list[Defect] = []
    expected: Shapes = {}
    for shapes in parts:
        try:
            expected |= shapes(config)
        except CheckpointError as error:
            defects.append(defect_of(error))
    entries = unpacked(entries, expected)
    absent = [name for name in expected if name not in entries]
    if absent:
        defects.append(Defect("fail", "weights", f"lack {listed(absent)}"))
    defects += _wrong_shapes(expected, entries)
    return list(dict.fromkeys(defects))


def _wrong_shapes(expected: Shapes, entries: Entries) -> Iterator[Defect]:
    wrong = [
        name for name, shape in expected.items() if name in entries and entries[name].shape != shape
    ]
    for name in wrong[:SHOWN]:
        text = f"has shape {entries[name].shape}, config.json asks for {expected[name]}"
        yield Defect("fail", entries[name].name, text)
    if len(wrong) > SHOWN:
        yield Defect("fail", "weights", f"{len(wrong) - SHOWN} more tensors with a wrong shape")


def _converted_defects(config: Config, entries: Entries) -> list[Defect]:
    original = original_entries(entries)
    defects = _promised(as_original(config), original, (language_shapes, projector_shapes))
    if not any(name.startswith("model.vision_tower.") for name in original):
        defects.append(Defect("fail", "weights", "lack the vision tower"))
    return defects


def _projector_defects(config: Config, entries: Entries) -> list[Defect]:
    plain = {projector_name(name): entry for name, entry in entries.items()}
    return _promised(config, plain, (projector_shapes,))
