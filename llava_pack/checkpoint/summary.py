"""A checkpoint in the words that a person asks about it, as plain values."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.config import vision_part
from llava_pack.checkpoint.context import longest_context
from llava_pack.checkpoint.defects import Defect
from llava_pack.checkpoint.elsewhere import served_elsewhere
from llava_pack.checkpoint.footprint import Parameters, count_parameters, memory_bytes
from llava_pack.checkpoint.kind import STORED, WHOLE, Kind, has_tiles
from llava_pack.checkpoint.layout import Layout, survey
from llava_pack.checkpoint.native import class_of, stored_values
from llava_pack.checkpoint.network import rotary
from llava_pack.checkpoint.pair import survey_pair
from llava_pack.checkpoint.quantized import quantized_ahead
from llava_pack.checkpoint.servable import engine_defects, served_by
from llava_pack.checkpoint.template_choice import choose_template
from llava_pack.checkpoint.values import size
from llava_pack.format.errors import CheckpointError
from llava_pack.profiles.loads import LOADS

CONTEXT_TOKENS = 4096


def summarise(
    folder: Path,
    tower_dir: Path | None = None,
    *,
    context_tokens: int = CONTEXT_TOKENS,
    requests: int = 1,
) -> dict[str, Any]:
    """Return what a checkpoint's folder holds and everything that is wrong with it.

    Args:
        folder: a checkpoint of any kind.
        tower_dir: where its tower is; looked for beside it otherwise.
        context_tokens: longest conversation that memory is predicted for.
        requests: conversations at a time that memory is predicted for.

    Raises:
        CheckpointError: there is no such folder.
    """
    layout, defects = survey(folder)
    tower: Layout | None = None
    told = not layout.over_converted  # else its base says all of it
    if layout.kind in {Kind.ORIGINAL, Kind.PROJECTOR, Kind.LORA} and told:
        tower, more = survey_pair(layout, tower_dir)
        defects += more
    facts: dict[str, Any] = {"layout": str(layout.kind), "is": layout.kind.description}
    config = _original(layout)
    if layout.kind not in {Kind.TOWER, Kind.UNKNOWN} and told:
        facts["language_model"] = _language(layout, config)
    if layout.kind in STORED:
        facts["class"] = class_of(layout.kind, layout.config)
    if layout.kind in {Kind.ORIGINAL, Kind.CONVERTED} and (template := _template(layout)):
        facts["conversation_template"] = template
    if layout.base_model:
        facts["base_model"] = layout.base_model
    vision = (tower or layout).tower_config
    if layout.kind not in {Kind.LANGUAGE, Kind.UNKNOWN, *STORED} and told:
        facts["pictures"] = _pictures(layout, config, tower or layout)
    if layout.vision_tower:
        facts["vision_tower"] = {
            "named": layout.vision_tower,
            "folder": str(tower.folder) if tower else None,
            "trained_along": layout.vision_inside,
        }
    if told and (tower or layout.kind in WHOLE):
        facts["served_by"] = _served_by(layout, config, tower or layout, defects)
    facts["weights"] = _weights(layout)
    memory = _memory(
        layout,
        config,
        vision if tower or layout.kind is Kind.CONVERTED else {},
        {"context_tokens": context_tokens, "slots": requests},
    )
    if memory:
        facts["memory"] = {
            "context_tokens": context_tokens,
            "requests_at_a_time": requests,
            "by_precision": memory,
        }
    facts["defects"] = [asdict(defect) for defect in _by_weight(defects)]
    return facts


def _served_by(
    layout: Layout, config: Mapping[str, Any], tower: Layout, defects: list[Defect]
) -> list[str]:
    """Return the runtimes that can serve a checkpoint; none where something in it is broken."""
    elsewhere = served_elsewhere(layout.kind, layout.config, LOADS)
    if layout.kind in STORED:
        return [] if any(one.level == "fail" for one in defects) else elsewhere
    parts = config, tower.tower_config, tower.preprocessor
    reasons = engine_defects(*parts)
    if any(one.level == "fail" and one not in reasons for one in defects):
        return []
    return [*served_by(*parts, layout.kind), *elsewhere]


def _original(layout: Layout) -> Mapping[str, Any]:
    stored = layout.kind in STORED
    try:
        return (
            stored_values(layout.kind, layout.config, layout.entries) if stored else layout.original
        )
    except CheckpointError:  # it is among the defects
        return layout.config


def _template(layout: Layout) -> str | None:
    """Return the conversation template, None where a defect says that it is not known."""
    try:
        found = choose_template(layout.folder, converted=layout.kind is Kind.CONVERTED)
    except CheckpointError:
        return None
    return found.conv_mode


def _language(layout: Layout, config: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "layers": "num_hidden_layers",
        "width": "hidden_size",
        "heads": "num_attention_heads",
        "vocabulary": "vocab_size",
    }
    held = {name: config[key] for name, key in names.items() if key in config}
    with suppress(CheckpointError):  # it is among the defects
        rotary(config)
        positions = size(config, "max_position_embeddings")
        held["context_tokens"] = longest_context(config, positions)
    return {"type": layout.language, **held}


def _pictures(layout: Layout, config: Mapping[str, Any], tower: Layout) -> dict[str, Any]:
    vision = vision_part(tower.tower_config)
    side, patch = vision.get("image_size"), vision.get("patch_size")
    facts: dict[str, Any] = {}
    if layout.kind is not Kind.TOWER:
        facts["prepared"] = _prepared(config, tower.preprocessor)
        facts["projector"] = config.get("mm_projector_type") or "linear"
    if type(side) is int and type(patch) is int and patch > 0:
        facts["pixels"] = side
        facts["tokens_each_tile" if layout.tiles else "tokens"] = (side // patch) ** 2
    return facts


def _prepared(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> str:
    if has_tiles(config):
        return "cut into tiles"
    if config.get("image_aspect_ratio") == "pad":
        return "padded to a square"
    size = preprocessor.get("size")
    squashed = isinstance(size, Mapping) and "height" in size
    return "squashed to a square" if squashed else "cropped to a square"


def _weights(layout: Layout) -> dict[str, Any]:
    types = Counter(entry.dtype for entry in layout.entries.values())
    ahead = layout.config.get("quantization_config")
    quantized = {"quantized_ahead": _quantized(layout.config)} if ahead else {}
    return {
        **quantized,
        "files": list(layout.weight_files),
        "tensors": len(layout.entries),
        "types": [name for name, _ in types.most_common()],
        "size_bytes": layout.size_bytes,
    }


def _quantized(config: Mapping[str, Any]) -> str:
    try:
        return str(quantized_ahead(config))
    except CheckpointError:  # told among the defects
        given = config["quantization_config"]
        return str(given.get("quant_method") if isinstance(given, Mapping) else given)


def _memory(
    layout: Layout,
    config: Mapping[str, Any],
    tower_config: Mapping[str, Any],
    wish: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Return predicted memory by precision, of a GPU and without one; nothing if a part is unknown.

    An adapter or a projector takes what the whole model takes that it makes of its base.
    """
    stored = layout.kind in STORED
    if layout.kind in {Kind.TOWER, Kind.LANGUAGE, Kind.UNKNOWN} or not (stored or tower_config):
        return []
    try:
        parameters = (
            Parameters(stored_bytes=layout.size_bytes)
            if stored
            else count_parameters(config, tower_config)
        )
        on_gpu, on_cpu = (
            memory_bytes(parameters, config, **wish, device=device) for device in ("cuda", "cpu")
        )
    except CheckpointError:
        return []
    return [
        {"precision": name, "gpu_bytes": total, "ram_without_gpu_bytes": on_cpu[name]}
        for name, total in on_gpu.items()
    ]


def _by_weight(defects: list[Defect]) -> list[Defect]:
    return sorted(dict.fromkeys(defects), key=lambda defect: defect.level != "fail")
