"""Which layer of a language model goes to which GPU: one rule for the plan and for the engine."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


def spread_layers(
    count: int, layer_bytes: int, fixed_bytes: int, free_bytes: Sequence[int]
) -> tuple[int, ...]:
    """Return the device of each layer, as a place in `free_bytes`; all on the first if it fits.

    Layers stay in their order, and each device is filled to the same part of what it has. A layer
    is never cut: it goes where its middle falls.

    Args:
        count: layers.
        layer_bytes: weights, keys and values of one.
        fixed_bytes: what stays on the first device.
        free_bytes: of each device, more than 0.

    >>> spread_layers(4, 10, 10, [100, 100]), spread_layers(4, 10, 10, [30, 30])
    ((0, 0, 0, 0), (0, 0, 1, 1))
    """
    total = fixed_bytes + count * layer_bytes
    if len(free_bytes) < 2 or total <= free_bytes[0]:
        return (0,) * count
    ends = [total * free / sum(free_bytes) - fixed_bytes for free in accumulate(free_bytes)]
    return tuple(bisect_left(ends, (layer + 0.5) * layer_bytes) for layer in range(count))
