"""Whether the tensors are those that the configuration promises, kind by kind. Pure."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from llava_pack.checkpoint.adapter_findings import adapter_defects
from llava_pack.checkpoint.converted import as_original, converted_tower, original_entries
from llava_pack.checkpoint.defects import Defect, defect_of
from llava_pack.checkpoint.expected import (
    Shapes,
    language_shapes,
    projector_shapes,
    tower_shapes,
)
from llava_pack.checkpoint.findings import SHOWN, listed
from llava_pack.checkpoint.internvl import internvl, internvl_defects, internvl_entries
from llava_pack.checkpoint.keymap import INSIDE, is_weight, original_name, projector_name
from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.network import NAMED_TOWER
from llava_pack.checkpoint.quantized import unpacked
from llava_pack.checkpoint.tensors import FLOATS, TensorEntry
from llava_pack.checkpoint.vision import tower_rules, tower_values
from llava_pack.format.errors import CheckpointError

_TOWER_LAYER = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.")
Config = Mapping[str, Any]
Entries = Mapping[str, TensorEntry]


def conformance_defects(
    kind: Kind, config: Config, adapter: Config, entries: Entries, unseen: Collection[str] = ()
) -> list[Defect]:
    """Return tensors that are absent, of another shape or type, or of no use.

    Args:
        kind: of the checkpoint.
        config: its config.json.
        adapter: its adapter_config.json.
        entries: its tensors.
        unseen: names of those of which nothing but the name is known.
    """
    if kind is Kind.ORIGINAL:
        defects = _promised(config, entries, (language_shapes, projector_shapes), unseen)
        return [*defects, *_strangers(config, entries)]
    if kind is Kind.CONVERTED:
        return _converted_defects(config, entries, unseen)
    if kind is Kind.TOWER:
        return [
            *_promised(config, entries, (tower_shapes,), unseen),
            *_more_layers(config, entries),
        ]
    if kind is Kind.LANGUAGE:
        return _promised(config, entries, (language_shapes,), unseen)
    if kind is Kind.PROJECTOR:
        return _projector_defects(config, entries)
    if kind is Kind.LORA:
        return adapter_defects(config, adapter, entries)
    if kind is Kind.INTERNVL:
        return _internvl_defects(config, entries, unseen)
    return []


def model_shapes(config: Config) -> Shapes:
    """Return every tensor of an original checkpoint beside those of a tower inside.

    Raises:
        CheckpointError: a value of the configuration is none.
    """
    return language_shapes(config) | projector_shapes(config)


def inside_defects(
    config: Config, tower_config: Config, entries: Entries, unseen: Collection[str] = ()
) -> list[Defect]:
    """Return what is wrong with the tower that is inside a checkpoint, in the original names."""

    def needed(tower: Config) -> Shapes:
        shapes = tower_shapes(tower, tower_rules(config, tower).layers)
        return {f"{INSIDE}{name}": shape for name, shape in shapes.items()}

    defects = _promised(tower_config, entries, (needed,), unseen)
    return [*defects, *_more_layers(tower_config, entries)]


def _more_layers(tower_config: Config, entries: Entries) -> Iterator[Defect]:
    """Yield that a tower has more layers than its configuration says: it is another's."""
    try:
        layers = tower_values(tower_config)[1]["num_hidden_layers"]
    except CheckpointError:  # told by what looks at the values
        return
    held = {int(match[1]) for name in entries if (match := _TOWER_LAYER.search(name))}
    if held and max(held) >= layers:
        text = (
            f"num_hidden_layers of the tower is {layers}, the weights have {max(held) + 1} layers"
        )
        yield Defect("fail", "config.json", text, NAMED_TOWER)


def _promised(
    config: Config,
    entries: Entries,
    parts: Iterable[Callable[[Config], Shapes]],
    unseen: Collection[str] = (),
) -> list[Defect]:
    """Return what is wrong with the tensors of each part, after what is wrong with the config.

    Of those that are unseen, nothing but the name is known.
    """
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
    held = [
        (entries[n], shape) for n, shape in expected.items() if n in entries and n not in unseen
    ]
    shapes_differ = [
        Defect("fail", entry.name, f"has shape {entry.shape}, config.json asks for {shape}")
        for entry, shape in held
        if entry.shape != shape
    ]
    no_floats = [
        Defect("fail", entry.name, f"has type {entry.dtype}, expected one of {', '.join(FLOATS)}")
        for entry, _ in held
        if entry.dtype not in FLOATS
    ]
    defects += [*_first(shapes_differ, "a wrong shape"), *_first(no_floats, "a wrong type")]
    return list(dict.fromkeys(defects))


def _first(defects: list[Defect], what: str) -> Iterator[Defect]:
    yield from defects[:SHOWN]
    if len(defects) > SHOWN:
        yield Defect("fail", "weights", f"{len(defects) - SHOWN} more tensors with {what}")


def _strangers(config: Config, entries: Entries) -> Iterator[Defect]:
    """Yield a warning that names the tensors that no part of the model needs."""
    try:
        needed = model_shapes(config)
    except CheckpointError:  # told by what looks at the values
        return
    strangers = sorted(
        entry.name
        for name, entry in unpacked(entries, {}).items()
        if name not in needed and is_weight(name) and not name.startswith((INSIDE, "lm_head."))
    )
    if strangers:
        text = f"hold {len(strangers)} tensors that nothing needs, which are left out: "
        yield Defect("warn", "weights", f"{text}{listed(strangers)}")


def _converted_defects(config: Config, entries: Entries, unseen: Collection[str]) -> list[Defect]:
    original = original_entries(entries)
    unseen = {original_name(name) for name in unseen}
    try:
        whole = as_original(config)
    except CheckpointError as error:
        return [defect_of(error)]
    defects = _promised(whole, original, (language_shapes, projector_shapes), unseen)
    defects += _strangers(whole, original)
    if not any(name.startswith(INSIDE) for name in original):
        return [*defects, Defect("fail", "weights", "lack the vision tower")]
    tower = {"vision_config": converted_tower(config)}
    return [*defects, *inside_defects(whole, tower, original, unseen)]


def _internvl_defects(config: Config, entries: Entries, unseen: Collection[str]) -> list[Defect]:
    """Return what is wrong with the tensors that would be written; of unseen ones, nothing."""
    if unseen:
        return internvl_defects(config)
    try:
        made = internvl(config)
        written = internvl_entries(made, entries.values())
    except CheckpointError as error:
        return [defect_of(error)]
    return _promised(config, written, (lambda _: made.shapes(),))


def _projector_defects(config: Config, entries: Entries) -> list[Defect]:
    plain = {projector_name(name): entry for name, entry in entries.items()}
    return _promised(config, plain, (projector_shapes,))
