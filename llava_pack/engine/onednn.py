"""Linears of a CPU multiplied by oneDNN, the largest laid out for it once, not in every product.

torch multiplies fp32 by MKL, which takes a slow path on processors that are not Intel's; oneDNN
asks the processor what it can do.

Source: torch/_inductor/mkldnn_lowerings.py, the operators and their arguments.
"""

from functools import cache
from typing import Any

import torch
from torch import nn

_ROWS = 8
"""Rows of the product that a layout is chosen for; it serves all others too."""


class OneDnnLinear(nn.Module):
    """A linear layer that oneDNN computes.

    Args:
        linear: gives the bias.
        weight: (out, in) on a CPU, plain or laid out.
    """

    def __init__(self, linear: nn.Linear, weight: torch.Tensor) -> None:
        super().__init__()
        self.bias = linear.bias
        self._weight = weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the products as (..., out)."""
        multiply = _operator("_linear_pointwise")
        out: torch.Tensor = multiply(inputs, self._weight, self.bias, "none", [], "")
        return out


def laid_out(weight: torch.Tensor) -> torch.Tensor:
    """Return a copy of a weight that only oneDNN can read.

    Args:
        weight: (out, in) on a CPU.

    Raises:
        RuntimeError: this processor has no product in the weight's type.
    """
    made: torch.Tensor = _operator("_reorder_linear_weight")(weight, _ROWS)
    return made


class CastBuffer:
    """Memory that one weight after another is cast in: new memory each time takes as long again."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def cast(self, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return a weight in a type, itself or in memory that the next call uses again."""
        if weight.dtype == dtype:
            return weight
        if self._memory.numel() < weight.numel() or self._memory.dtype != dtype:
            self._memory = torch.empty(weight.numel(), dtype=dtype)
        return self._memory[: weight.numel()].view(weight.shape).copy_(weight)


@cache
def has_products(dtype: torch.dtype) -> bool:
    """Return whether torch and this processor can multiply a type by oneDNN."""
    weight, linear = torch.zeros(8, 8, dtype=dtype), nn.Linear(8, 8, bias=False, device="meta")
    try:
        for one in (weight, laid_out(weight)):
            OneDnnLinear(linear, one)(weight)
    except (RuntimeError, AttributeError, TypeError):
        return False
    return True


def _operator(name: str) -> Any:
    return getattr(torch.ops.mkldnn, name)
