"""An adapter or a projector with its base: what they are together, and where they do not fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.adapter_findings import over_base_defects
from llava_pack.checkpoint.config import parse_config, read_small
from llava_pack.checkpoint.converted import original_entries
from llava_pack.checkpoint.defects import refuse
from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.layout import Layout
from llava_pack.checkpoint.picture_words import check_picture_ends
from llava_pack.checkpoint.quantized import quantized_ahead
from llava_pack.format.errors import CheckpointError

BASED = (Kind.LORA, Kind.PROJECTOR)
"""Kinds that need a base."""
BASES = (Kind.LANGUAGE, Kind.ORIGINAL, Kind.CONVERTED)


def check_based(model: Layout, base: Layout) -> None:
    """Check that an adapter or a projector makes a whole LLaVA of its base.

    Raises:
        CheckpointError: it does not; the message says what to take instead.
    """
    _check_kinds(model, base)
    if quantized_ahead(base.config) and model.kind is Kind.LORA:
        raise CheckpointError(
            "the base was quantized ahead of time, so nothing can be added to its weights",
            subject=base.folder.name,
            hint="use the unquantized base: it is quantized while loading",
        )
    check_picture_ends(base.folder, whole_config(model, base))
    defects = over_base_defects(
        model.entries,
        original_entries(base.entries),
        whole_config(model, base),
        tables_grow=base.kind is not Kind.CONVERTED,
    )
    refuse(defects, subject=base.folder.name)


def main_layout(model: Layout, base: Layout | None) -> Layout:
    """Return the folder whose config.json counts: of an adapter that brings none, its base's."""
    return base if base and model.over_converted else model


def whole_config(model: Layout, base: Layout) -> Mapping[str, Any]:
    """Return the configuration of what they make, in the original keys."""
    return main_layout(model, base).original


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Return adapter_config.json of a folder.

    Raises:
        CheckpointError: it is missing or malformed.
    """
    subject = f"{folder.name}/adapter_config.json"
    try:
        return parse_config(read_small(folder / "adapter_config.json"), subject=subject)
    except OSError as error:
        raise CheckpointError("no such file", subject=subject) from error


def _check_kinds(model: Layout, base: Layout) -> None:
    """Refuse a base of a kind that what is given was not trained on."""
    hint = ""
    if base.kind not in BASES:
        text = f"expected a language model or a LLaVA as the base, got: {base.kind.description}"
    elif base.kind is Kind.CONVERTED and not model.over_converted:
        text = f"expected a base in LLaVA's original layout, got: {base.kind.description}"
        hint = "use the base model that its config.json or adapter_config.json names"
    elif base.kind is not Kind.CONVERTED and model.over_converted:
        text = f"expected a converted LLaVA as the base, got: {base.kind.description}"
        hint = "use the converted LLaVA that adapter_config.json names"
    else:
        return
    raise CheckpointError(text, subject=base.folder.name, hint=hint)
