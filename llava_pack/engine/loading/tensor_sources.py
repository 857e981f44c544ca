"""Where a model's tensors come from: files of one or several folders, by the names in memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from llava_pack.checkpoint import adapter as adapters
from llava_pack.checkpoint.adapter import read_adapter, sorted_contents
from llava_pack.checkpoint.based import adapter_settings
from llava_pack.checkpoint.keymap import loaded_name, original_name, tower_loaded_name
from llava_pack.checkpoint.kind import Kind, trains_tower
from llava_pack.checkpoint.weight_file import open_weights

if TYPE_CHECKING:
    from llava_pack.checkpoint.adapter import Adapter
    from llava_pack.checkpoint.layout import Layout
    from llava_pack.checkpoint.model import Checkpoint
    from llava_pack.checkpoint.tensors import TensorEntry, TensorFile
    from llava_pack.format.precision import Precision

FLOATS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip
DTYPES = {**FLOATS, "U8": torch.uint8, "I8": torch.int8}
_TOWER = "model.vision_tower."
_LAYER = re.compile(r"model\.language_model\.layers\.(\d+)\.")
Rename = Callable[[str], str | None]
Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How tensors arrive: the dtype that the model computes in, the precision, the device.

    `spread` is the device of each layer of the language model where there are several.
    """

    precision: Precision
    dtype: torch.dtype
    device: torch.device
    spread: tuple[torch.device, ...] = ()

    def of(self, name: str) -> Placement:
        """Return where one tensor or module goes, by its name in memory."""
        found = _LAYER.match(name)
        if not self.spread or found is None:
            return self
        return replace(self, device=self.spread[int(found[1])])


@dataclass(frozen=True, slots=True)
class TensorSource:
    """Weight files of one folder, what the model calls their tensors, and what changes them."""

    files: tuple[TensorFile, ...]
    rename: Rename
    changes: Mapping[str, Change] = field(default_factory=dict)

    def tensors(self) -> Iterator[Arriving]:
        """Yield every tensor that the model has a name for."""
        for file in self.files:
            for entry in file.entries:
                name = self.rename(entry.name)
                if name is not None:
                    yield Arriving(name, file, entry, self.changes.get(name))


@dataclass(frozen=True, slots=True)
class Arriving:
    """A tensor on its way from a file into the model."""

    name: str
    file: TensorFile
    entry: TensorEntry
    change: Change | None = None

    def tensor(self) -> torch.Tensor:
        """Return it as the file holds it, or changed."""
        dtype = DTYPES[self.entry.dtype]
        if 0 in self.entry.shape:
            return torch.empty(self.entry.shape, dtype=dtype)
        self.file.verify(self.entry)
        found = torch.frombuffer(self.file.read(self.entry), dtype=dtype)
        shaped = found.reshape(self.entry.shape)
        return shaped if self.change is None else self.change(shaped)


def open_sources(checkpoint: Checkpoint) -> list[TensorSource]:
    """Return the weights of a checkpoint and of what belongs to it; a later source wins.

    Raises:
        CheckpointError: a file is damaged, or an adapter has no place in its base.
    """
    model, tower, base = checkpoint.model, checkpoint.tower, checkpoint.base
    if base is not None:
        changes, beside = _trained(checkpoint)
        own = _native_name if tower is None else _own(checkpoint.main, loaded_name)
        first = [TensorSource(_open(tower), tower_loaded_name)] if tower else []
        return [*first, TensorSource(_open(base), own, changes), beside]
    if tower is None:
        return [TensorSource(_open(model), _native_name)]
    whole = TensorSource(_open(model), _own(model, loaded_name))
    return (
        [whole] if model.vision_inside else [TensorSource(_open(tower), tower_loaded_name), whole]
    )


def _native_name(name: str) -> str | None:
    return loaded_name(original_name(name))


def _own(model: Layout, rename: Rename) -> Rename:
    """Return the names of a checkpoint; its vision tensors where its configuration says so.

    Others are left out, as LLaVA's own code does.
    """
    trained = trains_tower(model.config)

    def named(name: str) -> str | None:
        found = rename(name)
        outside = found is not None and found.startswith(_TOWER) and not trained
        return None if outside else found

    return named


def _open(layout: Layout) -> tuple[TensorFile, ...]:
    return tuple(open_weights(layout.folder / name, writable=True) for name in layout.weight_files)


def _trained(checkpoint: Checkpoint) -> tuple[dict[str, Change], TensorSource]:
    """Return what an adapter changes in its base, and the source of what was trained beside it."""
    model = checkpoint.model
    files = _open(model)
    there = {e.name: Arriving(e.name, file, e) for file in files for e in file.entries}
    contents = sorted_contents(there)
    original = {name: target for target, name in contents.replaced.items()}

    def replaced(name: str) -> str | None:
        return loaded_name(original[name]) if name in original else None

    beside = replaced if checkpoint.native else _own(checkpoint.main, replaced)
    if model.kind is not Kind.LORA:
        return {}, TensorSource(files, beside)
    adapter = read_adapter(adapter_settings(model.folder))
    changes = {
        loaded: _merge(change, there, adapter)
        for name, change in contents.changes.items()
        if (loaded := loaded_name(name)) is not None
    }
    return changes, TensorSource(files, beside, changes)


def _merge(change: adapters.Change, there: Mapping[str, Arriving], adapter: Adapter) -> Change:
    """Return what adds an adapter's part in 32 bits, and rounds once to the base's type."""
    scale = adapter.scale(change.module)

    def changed(weight: torch.Tensor) -> torch.Tensor:
        parts = {role: there[name].tensor().float() for role, name in change.parts.items()}
        whole: torch.Tensor = adapters.changed_weight(weight.float(), parts, scale)
        return whole.to(weight.dtype)

    return changed
