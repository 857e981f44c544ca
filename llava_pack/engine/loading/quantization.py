"""bitsandbytes linears in place of the language model's own.

Source: bitsandbytes nn/modules.py; transformers integrations/bitsandbytes.py (nf4 with double
quantization).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from llava_pack.format.precision import Precision

# What bitsandbytes' packed nf4 kernel for CPUs takes; other shapes stay as they are.
_IN_MULTIPLE, _OUT_MULTIPLE = 64, 32


def fits(linear: nn.Linear, precision: Precision, device: torch.device) -> bool:
    """Return whether a linear has a shape that the quantized kernels take."""
    if precision != "nf4" or device.type != "cpu":
        return True
    return linear.in_features % _IN_MULTIPLE == 0 and linear.out_features % _OUT_MULTIPLE == 0


def quantized(linear: nn.Linear, weight: torch.Tensor, precision: Precision) -> nn.Linear:
    """Return the quantized linear that takes the place of `linear`.

    Args:
        linear: on the meta device; its bias, where it has one, is taken over.
        weight: (out, in) in the dtype that the model computes in, on the model's device.
        precision: `nf4` or `int8`.
    """
    sizes = (linear.in_features, linear.out_features)
    made = _nf4(sizes, weight) if precision == "nf4" else _int8(sizes, weight)
    made.bias = linear.bias
    return made.eval()


def _nf4(sizes: tuple[int, int], weight: torch.Tensor) -> nn.Linear:
    from bitsandbytes.nn import Linear4bit, Params4bit

    made: nn.Linear = Linear4bit(
        *sizes, bias=False, compute_dtype=weight.dtype, quant_type="nf4", device="meta"
    )
    packed = Params4bit(
        weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=made
    )
    made.weight = packed.to(weight.device)
    return made


def four_bits_from_codes(
    linear: nn.Linear,
    codes: torch.Tensor,
    stats: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    device: torch.device,
) -> nn.Linear:
    """Return the linear of codes and scales that were made ahead, in nf4 or fp4.

    Args:
        linear: gives the sizes.
        codes: two in a byte.
        stats: scales and the state, under the names that bitsandbytes saves.
        dtype: what it computes in.
        device: where it goes.

    Raises:
        KeyError, ValueError, TypeError, AttributeError, AssertionError: the state is not one of
            bitsandbytes'.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    sizes = (linear.in_features, linear.out_features)
    made: nn.Linear = Linear4bit(
        *sizes, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta"
    )
    made.weight = Params4bit.from_prequantized(codes, dict(stats), device=device, module=made)
    return made


def plain_from_codes(linear: nn.Linear, packed: nn.Linear) -> nn.Linear:
    """Return a linear that computes in the model's type, of one that the kernels do not take."""
    from bitsandbytes import functional

    held: Any = packed.weight
    weight = functional.dequantize_4bit(held.data, held.quant_state).to(packed.compute_dtype)
    made = nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    return made


def _int8(sizes: tuple[int, int], weight: torch.Tensor) -> nn.Linear:
    from llava_pack.engine.loading.int8 import RowwiseInt8

    return RowwiseInt8.of(sizes, weight)
