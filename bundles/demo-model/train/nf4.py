"""bitsandbytes' nf4 rounding, so that training can make room for it."""

from __future__ import annotations

import torch

BLOCK = 64
LEVELS = torch.tensor(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ]
)
"""Source: bitsandbytes-foundation/bitsandbytes, functional.py, get_4bit_type("nf4")."""

_BORDERS = (LEVELS[1:] + LEVELS[:-1]) / 2


def straight_through(weight: torch.Tensor) -> torch.Tensor:
    """Return the weight rounded block by block; the gradient passes as if nothing happened."""
    with torch.no_grad():
        blocks = weight.reshape(-1, BLOCK)
        scale = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)
        rounded = LEVELS[torch.bucketize(blocks / scale, _BORDERS)] * scale
        change = rounded.view_as(weight) - weight
    return weight + change
