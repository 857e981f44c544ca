"""Linears of a CPU in oneDNN's own layout: a weight is laid out once, not in every product.

torch multiplies fp32 by MKL, which takes a slow path on processors that are not Intel's; oneDNN
asks the processor what it can do.

Source: torch/_inductor/mkldnn_lowerings.py, the operators and their arguments.
"""

from typing import Any

import torch
from torch import nn

_ROWS = 8
"""Rows of the product that the layout is chosen for; it serves all others too."""


class LaidOutLinear(nn.Module):
    """A linear layer whose weight only oneDNN can read.

    Args:
        linear: on a CPU.

    Raises:
        RuntimeError: this processor has no product in the weight's type.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self._laid_out = _operator("_reorder_linear_weight")(linear.weight.detach(), _ROWS)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the products as (..., out)."""
        multiply = _operator("_linear_pointwise")
        out: torch.Tensor = multiply(inputs, self._laid_out, self.bias, "none", [], "")
        return out


def lay_out(network: Any) -> int:
    """Put laid-out linears in the place of a model's plain ones, and return how many.

    Those of the projector, and an output layer that is the embedding table, stay as they are; so do
    all where torch or the processor has no such product. One weight at a time is there twice.

    Args:
        network: LLaVA on a CPU, loaded, for inference only.
    """
    table = network.model.language_model.embed_tokens.weight
    count = 0
    for parent in _parents(network):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear or child.weight is table:
                continue
            try:
                setattr(parent, name, LaidOutLinear(child))
            except (RuntimeError, AttributeError):
                return count
            count += 1
    return count


def _parents(network: Any) -> list[nn.Module]:
    """Return the modules that linears are replaced in."""
    towers = (network.model.language_model, network.model.vision_tower)
    return [network, *(module for tower in towers for module in tower.modules())]


def _operator(name: str) -> Any:
    return getattr(torch.ops.mkldnn, name)
