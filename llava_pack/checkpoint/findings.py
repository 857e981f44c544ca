"""What can be wrong with a checkpoint: each function looks at one thing and returns what it found.

Pure: names, configurations and tensor records go in, defects come out.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from llava_pack.checkpoint.defects import Defect, defect_of
from llava_pack.checkpoint.expected import Shapes, language_shapes, projector_shapes
from llava_pack.checkpoint.keymap import is_weight
from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.format.errors import CheckpointError

_SHOWN = 3
_VISION = "model.vision_tower."
_CLASS_EMBEDDING = "vision_model.embeddings.class_embedding"
_ORIGINALS = {
    "llava-1.5-7b-hf": "liuhaotian/llava-v1.5-7b",
    "llava-1.5-13b-hf": "liuhaotian/llava-v1.5-13b",
    "llava-v1.6-vicuna-7b-hf": "liuhaotian/llava-v1.6-vicuna-7b",
    "llava-v1.6-vicuna-13b-hf": "liuhaotian/llava-v1.6-vicuna-13b",
    "llava-v1.6-mistral-7b-hf": "liuhaotian/llava-v1.6-mistral-7b",
    "llava-v1.6-34b-hf": "liuhaotian/llava-v1.6-34b",
}


def kind_defects(name: str, kind: Kind, expected: Kind | None) -> list[Defect]:
    """Return what stands between the kind that was meant and the one that is here."""
    if kind is Kind.UNKNOWN:
        return [Defect("fail", name, "neither config.json nor the tensors are those of a LLaVA")]
    if expected is None or kind is expected:
        return []
    hint = ""
    if kind is Kind.CONVERTED and expected is Kind.ORIGINAL:
        named = _ORIGINALS.get(name, "the original, for example liuhaotian/llava-v1.5-7b")
        hint = f"take {named} instead, or set format = 'hf' in the recipe"
    elif kind is Kind.ORIGINAL and expected is Kind.CONVERTED:
        hint = "set format = 'original' in the recipe"
    return [
        Defect("fail", name, f"this is a {kind.description}, expected {expected.description}", hint)
    ]


def code_defects(names: Iterable[str], configs: Mapping[str, Mapping[str, Any]]) -> list[Defect]:
    """Return every file and value that would make a loader run code from the checkpoint."""
    hint = "llava-pack runs no code from a checkpoint; take one that needs none"
    defects = [
        Defect("fail", name, "Python code in a checkpoint is refused", hint)
        for name in sorted(names)
        if name.endswith((".py", ".pyc", ".so"))
    ]
    defects += [
        Defect("fail", name, f"auto_map names code to run ({config['auto_map']!r:.200})", hint)
        for name, config in configs.items()
        if config.get("auto_map")
    ]
    return defects


def index_defects(
    index: str, places: Mapping[str, str], held: Mapping[str, Collection[str]]
) -> list[Defect]:
    """Return where an index and its shards disagree.

    Args:
        index: the index's file name.
        places: tensor name to file name, as the index says.
        held: file name to the names that the file holds; files that could not be read are left out.
    """
    defects: list[Defect] = []
    for name, tensors in held.items():
        promised = {tensor for tensor, place in places.items() if place == name}
        absent = sorted(promised - set(tensors))
        if absent:
            defects.append(
                Defect("fail", index, f"places {_listed(absent)} in {name}, which lacks them")
            )
        strangers = sorted(filter(is_weight, set(tensors) - promised))
        if strangers:
            defects.append(Defect("warn", index, f"does not name {_listed(strangers)} of {name}"))
    return defects


def shape_defects(config: Mapping[str, Any], entries: Mapping[str, TensorEntry]) -> list[Defect]:
    """Return tensors that the configuration promises and that are absent or of another shape."""
    defects: list[Defect] = []
    expected: Shapes = {}
    for shapes in (language_shapes, projector_shapes):
        try:
            expected |= shapes(config)
        except CheckpointError as error:
            defects.append(defect_of(error))
    absent = [name for name in expected if name not in entries]
    if absent:
        defects.append(Defect("fail", "weights", f"lack {_listed(absent)}"))
    defects += _wrong_shapes(expected, entries)
    return defects


def _wrong_shapes(expected: Shapes, entries: Mapping[str, TensorEntry]) -> Iterator[Defect]:
    wrong = [name for name, shape in expected.items() if _shape(entries, name) not in {None, shape}]
    for name in wrong[:_SHOWN]:
        yield Defect(
            "fail",
            name,
            f"has shape {_shape(entries, name)}, config.json asks for {expected[name]}",
        )
    if len(wrong) > _SHOWN:
        yield Defect("fail", "weights", f"{len(wrong) - _SHOWN} more tensors of a wrong shape")


def _shape(entries: Mapping[str, TensorEntry], name: str) -> tuple[int, ...] | None:
    entry = entries.get(name)
    return entry.shape if entry else None


def vision_defects(config: Mapping[str, Any], entries: Mapping[str, TensorEntry]) -> list[Defect]:
    """Return what is wrong with vision tensors inside an original checkpoint.

    Source: haotian-liu/LLaVA llava/model/multimodal_encoder/clip_encoder.py (without
    `unfreeze_mm_vision_tower` the tower is loaded late, from its own folder, over these tensors).
    """
    inside = [name for name in entries if name.startswith(_VISION)]
    trained = bool(config.get("unfreeze_mm_vision_tower", False))
    if inside and not trained:
        return [
            Defect(
                "warn",
                "config.json",
                f"unfreeze_mm_vision_tower is not true, so LLaVA ignores {len(inside)} vision "
                "tensors of this checkpoint and takes the tower's own",
                "set it to true if the tower was trained along",
            )
        ]
    embedding = next((name for name in inside if name.endswith(_CLASS_EMBEDDING)), None)
    if embedding is None:
        return []
    return _width_defects(config, entries[embedding].shape[-1], "the tower inside")


def pair_defects(
    config: Mapping[str, Any],
    tower_config: Mapping[str, Any],
    tower_entries: Mapping[str, TensorEntry],
) -> list[Defect]:
    """Return where a tower's width is not the one that the projector was trained for."""
    entry = tower_entries.get(_CLASS_EMBEDDING)
    width = entry.shape[-1] if entry and entry.shape else tower_width(tower_config)
    return _width_defects(config, width, "the tower")


def tower_width(tower_config: Mapping[str, Any]) -> int | None:
    """Return a CLIP configuration's vision width, None where it does not say.

    >>> tower_width({"vision_config": {"hidden_size": 1024}})
    1024
    """
    inner = tower_config.get("vision_config")
    value = (inner if isinstance(inner, Mapping) else tower_config).get("hidden_size")
    return value if type(value) is int else None


def _width_defects(config: Mapping[str, Any], width: int | None, what: str) -> list[Defect]:
    expected = config.get("mm_hidden_size")
    if width is None or width == expected:
        return []
    return [
        Defect(
            "fail",
            "config.json",
            f"mm_hidden_size is {expected}, {what} is {width} wide",
            "take the tower that mm_vision_tower names",
        )
    ]


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
