"""Where a model's tensors come from: files of one or several folders, by the names in memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from llava_pack.checkpoint.adapter import Half, changed_tensor, read_adapter, trained_name
from llava_pack.checkpoint.keymap import loaded_name, original_name, tower_loaded_name
from llava_pack.checkpoint.kind import Kind, trains_tower
from llava_pack.checkpoint.weight_file import open_weights
from llava_pack.format.errors import CheckpointError

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
    if tower is None:
        return [TensorSource(_open(model), lambda name: loaded_name(original_name(name)))]
    if base is not None:
        changes, beside = _trained(checkpoint)
        first = TensorSource(_open(tower), tower_loaded_name)
        return [first, TensorSource(_open(base), _own(model, loaded_name), changes), beside]
    whole = TensorSource(_open(model), _own(model, loaded_name))
    return (
        [whole] if model.vision_inside else [TensorSource(_open(tower), tower_loaded_name), whole]
    )


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
    halves: dict[str, dict[Half, Arriving]] = {}
    files = _open(model)
    for file in files:
        for entry in file.entries:
            changed = changed_tensor(entry.name)
            if changed is not None:
                halves.setdefault(changed[0], {})[changed[1]] = Arriving(entry.name, file, entry)

    def beside(name: str) -> str | None:
        return None if changed_tensor(name) else loaded_name(trained_name(name))

    changes: dict[str, Change] = {}
    if model.kind is Kind.LORA:
        adapter = read_adapter(checkpoint.adapter)
        held = checkpoint.base.entries if checkpoint.base else {}
        for name, pair in halves.items():
            loaded = loaded_name(name)
            if name not in held or loaded is None:
                raise CheckpointError(
                    f"the base has no {name}, which the adapter changes",
                    subject=checkpoint.texts.name,
                    hint="use the base model that the adapter was trained on",
                )
            changes[loaded] = _merge(pair["A"], pair["B"], adapter, name)
    return changes, TensorSource(files, _own(model, beside))


def _merge(first: Arriving, second: Arriving, adapter: Adapter, name: str) -> Change:
    """Return what adds scale · B · A in 32 bits, and rounds once to the base's type."""
    scale = adapter.scale(name.removesuffix(".weight"))

    def change(weight: torch.Tensor) -> torch.Tensor:
        delta = second.tensor().float() @ first.tensor().float() * scale
        return weight.float().add(delta).to(weight.dtype)

    return change
