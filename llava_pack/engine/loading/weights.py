"""Tensors of a checkpoint, straight from its mapped files into the model."""

from collections.abc import Sequence

import torch
from torch import nn

from llava_pack.engine.loading.onednn import CastBuffer, OneDnnLinear, has_products, laid_out
from llava_pack.engine.loading.prequantized import put_ahead, taken_ahead
from llava_pack.engine.loading.quantization import fits, quantized
from llava_pack.engine.loading.tensor_sources import FLOATS as _FLOATS
from llava_pack.engine.loading.tensor_sources import Arriving, Placement, TensorSource
from llava_pack.format.precision import QUANTIZED
from llava_pack.format.progress import Progress

_LANGUAGE = "model.language_model.layers."
_ONEDNN = ("model.language_model.", "model.vision_tower.", "lm_head.")
_LAID_OUT = ("gate_proj.weight", "up_proj.weight", "fc1.weight")
"""Half of all weights: laying out the rest too makes loading a third slower."""
_SMALL_BYTES = 4 << 20
"""Weights up to here are laid out too: that takes no time."""
_EMBEDDING = "model.language_model.embed_tokens.weight"


def vocabulary_size(sources: Sequence[TensorSource]) -> int:
    """Return the rows of the embedding table; that of a later source counts."""
    tables = (one for source in reversed(sources) for one in source.tensors())
    return next(one.entry.shape[0] for one in tables if one.name == _EMBEDDING)


def fill(
    model: nn.Module, sources: Sequence[TensorSource], place: Placement, progress: Progress
) -> None:
    """Put every tensor that the model has a place for into it; a later source wins.

    The checkpoint was held against its configuration before: nothing is missing, and what is left
    out was told.
    """
    chosen = {one.name: one for source in sources for one in source.tensors()}
    packed = taken_ahead(chosen)
    needed = {name for name, _ in model.named_parameters()}
    chosen = {name: one for name, one in chosen.items() if name in needed}
    packed = {name: group for name, group in packed.items() if f"{name}.weight" in needed}
    total = [*chosen.values(), *(one for group in packed.values() for one in group.values())]
    progress.start("weights", sum(one.entry.size_bytes for one in total))
    for name, group in packed.items():
        put_ahead(model, name, group, place.of(name))
        progress.advance(sum(one.entry.size_bytes for one in group.values()))
    scratch = CastBuffer()
    for name, one in chosen.items():
        _place(model, name, one.tensor(), place.of(name), scratch)
        if _copied(one, place):
            one.file.release(one.entry)
        progress.advance(one.entry.size_bytes)
    _tie(model)
    progress.done()


def _place(
    model: nn.Module, name: str, tensor: torch.Tensor, place: Placement, scratch: CastBuffer
) -> None:
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    if leaf == "weight" and isinstance(module, nn.Linear):
        other = _other_linear(module, name, tensor, place, scratch)
        if other is not None:
            above, _, last = parent.rpartition(".")
            setattr(model.get_submodule(above), last, other)
            return
    moved = tensor.to(device=place.device, dtype=place.dtype)
    setattr(module, leaf, nn.Parameter(moved, requires_grad=False))


def _other_linear(
    linear: nn.Linear, name: str, tensor: torch.Tensor, place: Placement, scratch: CastBuffer
) -> nn.Module | None:
    """Return what stands in the place of a linear where it is not torch's own that computes."""
    if place.precision in QUANTIZED:
        if not (name.startswith(_LANGUAGE) and fits(linear, place.precision, place.device)):
            return None
        moved = tensor.to(device=place.device, dtype=place.dtype)
        return quantized(linear, moved, place.precision)
    here = place.device.type == "cpu" and name.startswith(_ONEDNN)
    if not (here and has_products(place.dtype)):
        return None
    small = tensor.numel() * place.dtype.itemsize <= _SMALL_BYTES
    if small or name.endswith(_LAID_OUT):
        return OneDnnLinear(linear, laid_out(scratch.cast(tensor, place.dtype)))
    return OneDnnLinear(linear, tensor.to(place.dtype))


def _tie(model: nn.Module) -> None:
    """Give the output layer the embedding table where the checkpoint has no own one for it."""
    head: nn.Module = model.get_submodule("lm_head")
    if isinstance(head, nn.Linear) and head.weight.is_meta:
        table = model.get_submodule("model.language_model.embed_tokens")
        head.weight = table.get_parameter("weight")


def _copied(one: Arriving, place: Placement) -> bool:
    """Say whether the model holds a tensor's values elsewhere than in the mapped file."""
    changed = one.change is not None or _FLOATS[one.entry.dtype] != place.dtype
    return changed or place.precision in QUANTIZED or place.device.type != "cpu"
