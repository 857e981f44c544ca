"""Linears that were quantized ahead, taken as they are: codes and scales straight from the file.

Source: bitsandbytes nn/modules.py and functional.py (QuantState.as_dict: what is saved, and under
which names); transformers quantizers/quantizer_bnb_4bit.py, quantizer_bnb_8bit.py.
"""

from typing import TYPE_CHECKING, Any

from torch import nn

from llava_pack.checkpoint.quantized import PART
from llava_pack.engine.loading.quantization import fits, four_bits_from_codes, plain_from_codes
from llava_pack.engine.loading.tensor_sources import Arriving, Placement
from llava_pack.format.errors import CheckpointError

if TYPE_CHECKING:
    import torch

Group = dict[str, Arriving]


def taken_ahead(chosen: dict[str, Arriving]) -> dict[str, Group]:
    """Take the tensors of quantized linears out of `chosen`; return them by the linear's name."""
    groups: dict[str, Group] = {}
    for name in list(chosen):
        match = PART.fullmatch(name)
        if match:
            groups.setdefault(match[1], {})[match[2]] = chosen.pop(name)
    for name, group in groups.items():
        weight = chosen.pop(f"{name}.weight", None)
        if weight is None:
            raise CheckpointError(f"{name} has scales without a weight")
        group["weight"] = weight
    return groups


def put_ahead(model: nn.Module, name: str, group: Group, place: Placement) -> None:
    """Put a quantized linear into the model.

    Raises:
        CheckpointError: it is no linear of the model, or its parts do not fit.
    """
    above, _, last = name.rpartition(".")
    linear = model.get_submodule(name)
    if not isinstance(linear, nn.Linear):
        raise CheckpointError(f"{name} is quantized, but only linear layers can be")
    tensors = {part: one.tensor() for part, one in group.items()}
    made = _int8(linear, tensors, place) if "SCB" in tensors else _four_bits(linear, tensors, place)
    made.bias = linear.bias
    setattr(model.get_submodule(above), last, made.eval())


def _int8(linear: nn.Linear, tensors: "dict[str, torch.Tensor]", place: Placement) -> nn.Linear:
    from llava_pack.engine.loading.int8 import RowwiseInt8

    codes, scales = tensors["weight"], tensors["SCB"]
    _check_shape(linear, tuple(codes.shape))
    if scales.numel() != linear.out_features:
        raise CheckpointError(f"{scales.numel()} scales for {linear.out_features} rows")
    sizes = (linear.in_features, linear.out_features)
    return RowwiseInt8.from_codes(sizes, codes, scales, place.device)


def _four_bits(
    linear: nn.Linear, tensors: "dict[str, torch.Tensor]", place: Placement
) -> nn.Linear:
    stats = {
        part.removeprefix("weight."): value for part, value in tensors.items() if part != "weight"
    }
    try:
        made = four_bits_from_codes(linear, tensors["weight"], stats, place.dtype, place.device)
    except (KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise CheckpointError(
            f"the state of a quantized linear layer is invalid: {error}"
        ) from error
    packed: Any = made.weight
    _check_shape(linear, tuple(packed.quant_state.shape))
    return made if fits(linear, "nf4", place.device) else plain_from_codes(linear, made)


def _check_shape(linear: nn.Linear, shape: tuple[int, ...]) -> None:
    expected = (linear.out_features, linear.in_features)
    if shape != expected:
        raise CheckpointError(f"a quantized linear layer has shape {shape}, expected {expected}")
