"""Whether the tensors are those that the configuration promises, kind by kind. Pure."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from llava_pack.checkpoint.adapter import changed_tensor
from llava_pack.checkpoint.converted import as_original, converted_tower, original_entries
from llava_pack.checkpoint.defects import Defect, defect_of
from llava_pack.checkpoint.expected import (
    Shapes,
    language_shapes,
    projector_shapes,
    tower_shapes,
)
from llava_pack.checkpoint.findings import SHOWN, listed
from llava_pack.checkpoint.keymap import INSIDE, is_weight, original_name, projector_name
from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.checkpoint.values import size
from llava_pack.checkpoint.vision import tower_rules
from llava_pack.format.errors import CheckpointError

Config = Mapping[str, Any]
Entries = Mapping[str, TensorEntry]
FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of elements that a model is loaded from."""
_LAYER = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.")
_STATE = re.compile(
    r"(.+\.weight)\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..+)"
    r"|(.+)\.(?:SCB|weight_format)"
)
"""What bitsandbytes saves beside a weight that it has quantized."""


def conformance_defects(
    kind: Kind, config: Config, adapter: Config, entries: Entries, packed: Collection[str] = ()
) -> list[Defect]:
    """Return tensors that are absent, of another shape or type, or of no use.

    Args:
        kind: of the checkpoint.
        config: its config.json.
        adapter: its adapter_config.json.
        entries: its tensors.
        packed: names of those of which nothing but the name is known.
    """
    if kind is Kind.ORIGINAL:
        defects = _promised(config, entries, (language_shapes, projector_shapes), packed)
        return [*defects, *_strangers(config, entries)]
    if kind is Kind.CONVERTED:
        return _converted_defects(config, entries, packed)
    if kind is Kind.TOWER:
        return _promised(config, entries, (tower_shapes,), packed)
    if kind is Kind.LANGUAGE:
        return _promised(config, entries, (language_shapes,), packed)
    if kind is Kind.PROJECTOR:
        return _projector_defects(config, entries)
    if kind is Kind.LORA:
        return _adapter_defects(config, adapter, entries)
    return []


def model_shapes(config: Config) -> Shapes:
    """Return every tensor of an original checkpoint beside those of a tower inside.

    Raises:
        CheckpointError: a value of the configuration is none.
    """
    return language_shapes(config) | projector_shapes(config)


def inside_defects(
    config: Config, tower_config: Config, entries: Entries, packed: Collection[str] = ()
) -> list[Defect]:
    """Return what is wrong with the tower that is inside a checkpoint, in the original names."""

    def needed(tower: Config) -> Shapes:
        layers = tower_rules(config, tower).layers
        return {f"{INSIDE}{name}": one for name, one in tower_shapes(tower).items()
                if _is_run(name, layers)}  # fmt: skip

    return _promised(tower_config, entries, (needed,), packed)


def _is_run(name: str, layers: int) -> bool:
    match = _LAYER.match(name)
    return match is None or int(match[1]) < layers


def _promised(
    config: Config,
    entries: Entries,
    parts: Iterable[Callable[[Config], Shapes]],
    packed: Collection[str] = (),
) -> list[Defect]:
    """Return what is wrong with the tensors of each part, after what is wrong with the config.

    Those of `packed` are quantized: their codes have shapes and a type of their own.
    """
    defects: list[Defect] = []
    expected: Shapes = {}
    for shapes in parts:
        try:
            expected |= shapes(config)
        except CheckpointError as error:
            defects.append(defect_of(error))
    absent = [name for name in expected if name not in entries]
    if absent:
        defects.append(Defect("fail", "weights", f"lack {listed(absent)}"))
    held = [
        (entries[n], shape) for n, shape in expected.items() if n in entries and n not in packed
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
        for name, entry in entries.items()
        if name not in needed and is_weight(name) and not name.startswith((INSIDE, "lm_head."))
    )
    if strangers:
        text = f"hold {len(strangers)} tensors that nothing needs, which are left out: "
        yield Defect("warn", "weights", f"{text}{listed(strangers)}")


def _converted_defects(config: Config, entries: Entries, unseen: Collection[str]) -> list[Defect]:
    original = original_entries(entries)
    states = {name: match for name in original if (match := _STATE.fullmatch(name))}
    packed = {match[1] or f"{match[2]}.weight" for match in states.values()}
    packed |= {original_name(name) for name in unseen}
    original = {name: entry for name, entry in original.items() if name not in states}
    try:
        whole = as_original(config)
    except CheckpointError as error:
        return [defect_of(error)]
    defects = _promised(whole, original, (language_shapes, projector_shapes), packed)
    defects += _strangers(whole, original)
    if not any(name.startswith(INSIDE) for name in original):
        return [*defects, Defect("fail", "weights", "lack the vision tower")]
    tower = {"vision_config": converted_tower(config)}
    return [*defects, *inside_defects(whole, tower, original, packed)]


def _projector_defects(config: Config, entries: Entries) -> list[Defect]:
    plain = {projector_name(name): entry for name, entry in entries.items()}
    return _promised(config, plain, (projector_shapes,))


def _adapter_defects(config: Config, adapter: Config, entries: Entries) -> list[Defect]:
    """Return what is wrong with an adapter and what was trained beside it."""
    pairs: dict[str, dict[str, TensorEntry]] = {}
    beside: dict[str, TensorEntry] = {}
    for name, entry in entries.items():
        if changed := changed_tensor(name):
            pairs.setdefault(changed[0], {})[changed[1]] = entry
        else:
            beside[name] = entry
    defects = _projector_defects(config, beside)
    try:
        targets, rank = language_shapes(config), size(adapter, "r")
    except CheckpointError as error:
        return [*defects, defect_of(error)]
    if not pairs:
        defects.append(Defect("fail", "adapter_model", "holds no lora_A and lora_B tensors"))
    wrong = [name for name, pair in pairs.items() if not _fits(targets.get(name), rank, pair)]
    if wrong:
        text = f"does not fit rank {rank} and the sizes of config.json at {listed(wrong)}"
        defects.append(Defect("fail", "adapter_model", text))
    return defects


def _fits(target: tuple[int, ...] | None, rank: int, pair: Mapping[str, TensorEntry]) -> bool:
    if target is None or pair.keys() != {"A", "B"}:
        return False
    return pair["A"].shape == (rank, target[1]) and pair["B"].shape == (target[0], rank)
