"""What can be wrong with an adapter, by itself and over its base. Pure."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from llava_pack.checkpoint.adapter import (
    Adapter,
    Change,
    changed_shape,
    over_converted,
    read_adapter,
    sorted_contents,
)
from llava_pack.checkpoint.defects import Defect, defect_of
from llava_pack.checkpoint.expected import language_shapes, projector_shapes
from llava_pack.checkpoint.findings import SHOWN, listed
from llava_pack.checkpoint.keymap import is_weight
from llava_pack.checkpoint.kind import TRAINABLES
from llava_pack.checkpoint.tensors import FLOATS, TensorEntry
from llava_pack.format.errors import CheckpointError

Config = Mapping[str, Any]
Entries = Mapping[str, TensorEntry]
_OTHER_BASE = "use the base model that the adapter was trained on"
_TABLES = ("model.embed_tokens.weight", "lm_head.weight")
_NO_TRAINABLES = (
    "LLaVA's own training writes it beside the adapter at its end, and not into checkpoint-N: "
    "take the folder of the whole training"
)
_PROJECTOR = "model.mm_projector."


def trainables_defects(names: Collection[str], entries: Entries) -> list[Defect]:
    """Return that what LLaVA trains beside an adapter is missing; others put all into one file."""
    if over_converted(entries) or set(TRAINABLES) & set(names):
        return []
    first, second = TRAINABLES
    return [Defect("fail", first, f"is missing, and so is {second}", _NO_TRAINABLES)]


def adapter_defects(config: Config, settings: Config, entries: Entries) -> list[Defect]:
    """Return what is wrong with an adapter and what was trained beside it.

    Args:
        config: config.json, empty where the base says everything.
        settings: adapter_config.json.
        entries: tensors of all its files.
    """
    try:
        adapter, contents = read_adapter(settings), sorted_contents(entries)
        targets = language_shapes(config) if config else {}
    except CheckpointError as error:
        return [defect_of(error)]
    defects: list[Defect] = []
    if not contents.changes:
        defects.append(Defect("fail", "adapter_model", "holds no lora_A and lora_B tensors"))
    inside = [name for name in contents.changes if name.startswith("model.layers.")]
    known = {name: targets.get(name) for name in inside} if targets else {}
    wrong = [
        name
        for name, change in contents.changes.items()
        if not _fits(change, adapter, entries, known.get(name))
        or (name in known and known[name] is None)
    ]
    if wrong:
        text = f"does not fit rank {adapter.rank} and the sizes of config.json at {listed(wrong)}"
        defects.append(Defect("fail", "adapter_model", text))
    strange = [one for one in entries.values() if one.dtype not in FLOATS and is_weight(one.name)]
    for one in strange[:SHOWN]:
        text = f"has type {one.dtype}, expected one of {', '.join(FLOATS)}"
        defects.append(Defect("fail", one.name, text))
    return defects + list(_projector_defects(config, contents.replaced, entries))


def _fits(
    change: Change, adapter: Adapter, entries: Entries, shape: tuple[int, ...] | None
) -> bool:
    """Say whether an adapter's parts are of its rank, and of the shape that they change."""
    rank = adapter.rank_of(change.module)
    shapes = {role: entries[name].shape for role, name in change.parts.items()}
    ranks = {
        (one[1:] if role.endswith("B") else one[:1])
        for role, one in shapes.items()
        if role != "magnitude_vector"
    }
    magnitude = shapes.get("magnitude_vector")
    whole = changed_shape(shapes)
    fits = ranks == {(rank,)} and (magnitude is None or magnitude in {whole[:1], (*whole[:1], 1)})
    return fits and shape in {None, whole}


def _projector_defects(
    config: Config, replaced: Mapping[str, str], entries: Entries
) -> Iterator[Defect]:
    """Yield what a projector beside an adapter lacks; none is one that was not trained."""
    if not config or not any(name.startswith(_PROJECTOR) for name in replaced):
        return
    try:
        expected = projector_shapes(config)
    except CheckpointError as error:
        yield defect_of(error)
        return
    absent = [name for name in expected if name not in replaced and name.startswith(_PROJECTOR)]
    if absent:
        yield Defect("fail", "weights", f"lack {listed(absent)}")
    for name, shape in expected.items():
        if name in replaced and entries[replaced[name]].shape != shape:
            text = f"has shape {entries[replaced[name]].shape}, config.json asks for {shape}"
            yield Defect("fail", replaced[name], text)


def over_base_defects(
    entries: Entries, base: Entries, config: Config, *, tables_grow: bool
) -> list[Defect]:
    """Return where an adapter, or a projector, has no place in its base.

    Args:
        entries: its tensors.
        base: the base's, by their original names.
        config: of the LLaVA that they make, in the original keys.
        tables_grow: words may have been added to the embedding table.
    """
    contents = sorted_contents(entries)
    defects: list[Defect] = []
    unplaced = sorted(contents.changes.keys() - base.keys())
    if unplaced:
        text = f"the base has no {unplaced[0]}, which the adapter changes"
        defects.append(Defect("fail", "", text, _OTHER_BASE))
    for name, change in contents.changes.items():
        expected = changed_shape({r: entries[one].shape for r, one in change.parts.items()})
        if name in base and base[name].shape != expected:
            text = f"{name} has shape {base[name].shape}, the adapter expects {expected}"
            defects.append(Defect("fail", "", text, _OTHER_BASE))
    for name, one in contents.replaced.items():
        grows = tables_grow and name in _TABLES
        if name in base and base[name].shape != entries[one].shape and not grows:
            text = f"{name} has shape {base[name].shape}, the adapter's has {entries[one].shape}"
            defects.append(Defect("fail", "", text, _OTHER_BASE))
    lacking = [n for n in _needed(config) if n not in base and n not in contents.replaced]
    if lacking:
        text = f"neither adapter nor base has {listed(lacking)}"
        hint = "use the LLaVA that the adapter was trained on as its base, not its language model"
        defects.append(Defect("fail", "", text, hint))
    return defects[:SHOWN]


def _needed(config: Config) -> Collection[str]:
    return [name for name in projector_shapes(config) if name.startswith(_PROJECTOR)]
