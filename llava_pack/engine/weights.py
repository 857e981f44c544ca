"""Tensors of a checkpoint, straight from its mapped files into the model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from llava_pack.checkpoint.keymap import loaded_name, tower_loaded_name
from llava_pack.checkpoint.layout import Layout
from llava_pack.checkpoint.tensors import TensorEntry, TensorFile
from llava_pack.checkpoint.weight_file import open_weights
from llava_pack.engine.quantization import QUANTIZED, Precision, fits, quantized
from llava_pack.format.errors import CheckpointError
from llava_pack.format.progress import Progress

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip
_LANGUAGE = "model.language_model.layers."
_TOWER = "model.vision_tower."
_EMBEDDING = "model.embed_tokens.weight"
_SHOWN = 5

Rename = Callable[[str], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How tensors arrive: the dtype that the model computes in, the precision, the device."""

    precision: Precision
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class Source:
    """Weight files of one folder, and what the model calls their tensors."""

    files: tuple[TensorFile, ...]
    rename: Rename

    def tensors(self) -> Iterator[tuple[TensorFile, TensorEntry, str]]:
        """Yield every tensor that the model has a name for."""
        for file in self.files:
            for entry in file.entries:
                name = self.rename(entry.name)
                if name is not None:
                    yield file, entry, name

    def close(self) -> None:
        """Give the files back."""
        for file in self.files:
            file.close()


def open_checkpoint(model: Layout) -> Source:
    """Return the weights of a checkpoint in the original layout.

    Its own vision tensors are taken where `unfreeze_mm_vision_tower` says so, and else left out,
    as LLaVA's own code does.

    Raises:
        CheckpointError: a file is damaged.
    """

    def rename(name: str) -> str | None:
        found = loaded_name(name)
        outside = found is not None and found.startswith(_TOWER) and not model.vision_inside
        return None if outside else found

    return Source(_open(model), rename)


def open_tower(tower: Layout) -> Source:
    """Return the weights of a vision tower.

    Raises:
        CheckpointError: a file is damaged.
    """
    return Source(_open(tower), tower_loaded_name)


def vocabulary_size(checkpoint: Source) -> int:
    """Return the rows of the embedding table.

    Raises:
        CheckpointError: there is no such table.
    """
    for file in checkpoint.files:
        for entry in file.entries:
            if entry.name.endswith(_EMBEDDING):
                return entry.shape[0]
    raise CheckpointError(f"no tensor {_EMBEDDING}: not a whole LLaVA checkpoint")


def fill(model: nn.Module, sources: Sequence[Source], place: Placement, progress: Progress) -> None:
    """Put every tensor into the model; a later source wins over an earlier one.

    Raises:
        CheckpointError: tensors are missing, have another shape, or are not known.
    """
    wanted = {name: param.shape for name, param in model.named_parameters()}
    chosen = {name: (file, entry) for source in sources for file, entry, name in source.tensors()}
    _check(wanted, chosen)
    progress.start("weights", sum(entry.size_bytes for _, entry in chosen.values()))
    for name, (file, entry) in chosen.items():
        _place(model, name, _tensor(file, entry), place)
        if place.precision in QUANTIZED or entry.dtype not in _same(place) or not _on_cpu(place):
            file.release(entry)
        progress.advance(entry.size_bytes)
    _tie(model)
    progress.done()


def _open(layout: Layout) -> tuple[TensorFile, ...]:
    return tuple(open_weights(layout.folder / name, writable=True) for name in layout.weight_files)


def _check(wanted: dict[str, Any], chosen: dict[str, tuple[TensorFile, TensorEntry]]) -> None:
    tied = {"lm_head.weight"}
    missing = sorted(set(wanted) - set(chosen) - tied)
    unknown = sorted(set(chosen) - set(wanted))
    shapes = [
        f"{name} has shape {entry.shape}, expected {tuple(wanted[name])}"
        for name, (_, entry) in chosen.items()
        if name in wanted and tuple(wanted[name]) != entry.shape
    ]
    types = [
        f"{name} has type {entry.dtype}, expected one of {', '.join(_DTYPES)}"
        for name, (_, entry) in chosen.items()
        if entry.dtype not in _DTYPES
    ]
    defects = [*shapes[:_SHOWN], *types[:_SHOWN]]
    for what, names in (("missing", missing), ("not known", unknown)):
        if names:
            defects.append(f"{len(names)} tensors are {what}: {', '.join(names[:_SHOWN])}")
    if defects:
        raise CheckpointError("; ".join(defects), hint="copy the checkpoint again, whole")


def _tensor(file: TensorFile, entry: TensorEntry) -> torch.Tensor:
    dtype = _DTYPES[entry.dtype]
    if 0 in entry.shape:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.frombuffer(file.read(entry), dtype=dtype).reshape(entry.shape)


def _place(model: nn.Module, name: str, tensor: torch.Tensor, place: Placement) -> None:
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    moved = tensor.to(device=place.device, dtype=place.dtype)
    inside = place.precision in QUANTIZED and name.startswith(_LANGUAGE) and leaf == "weight"
    if inside and isinstance(module, nn.Linear) and fits(module, place.precision, place.device):
        above, _, last = parent.rpartition(".")
        setattr(model.get_submodule(above), last, quantized(module, moved, place.precision))
    else:
        setattr(module, leaf, nn.Parameter(moved, requires_grad=False))


def _tie(model: nn.Module) -> None:
    """Give the output layer the embedding table where the checkpoint has no own one for it."""
    head = model.get_submodule("lm_head")
    if head.weight.is_meta:
        head.weight = model.get_submodule("model.language_model.embed_tokens").weight


def _same(place: Placement) -> set[str]:
    return {name for name, dtype in _DTYPES.items() if dtype == place.dtype}


def _on_cpu(place: Placement) -> bool:
    return place.device.type == "cpu"
