"""One model on several GPUs: which layer goes where, and what moves between them.

Layers are put on the visible devices in order, so that each is filled to the same part of what it
has free; embeddings, tower, projector and head stay on the first. `CUDA_VISIBLE_DEVICES` says which
devices there are. Two GPUs have not run this yet: see docs/explanation/engine.md.
"""

from collections.abc import Sequence
from typing import Any

import torch

from llava_pack.engine.arrivals import Placement


def spread_layers(
    count: int, layer_bytes: int, fixed_bytes: int, free_bytes: Sequence[int]
) -> tuple[int, ...]:
    """Return the device of each layer, as a place in `free_bytes`; all on the first if it fits.

    Args:
        count: layers.
        layer_bytes: weights, keys and values of one.
        fixed_bytes: what stays on the first device.
        free_bytes: of each device.

    >>> spread_layers(4, 10, 10, [100, 100]), spread_layers(4, 10, 10, [30, 30])
    ((0, 0, 0, 0), (0, 0, 1, 1))
    """
    if len(free_bytes) < 2 or fixed_bytes + count * layer_bytes <= free_bytes[0]:
        return (0,) * count
    part = (fixed_bytes + count * layer_bytes) / sum(free_bytes)
    room = [part * free for free in free_bytes]
    room[0] -= fixed_bytes
    placed: list[int] = []
    device = 0
    for _ in range(count):
        # A layer goes where at least half of it is within the device's part.
        while room[device] < layer_bytes / 2 and device < len(room) - 1:
            device += 1
        room[device] -= layer_bytes
        placed.append(device)
    return tuple(placed)


def follow_devices(network: Any, place: Placement) -> None:
    """Have what a layer is given moved to where the layer is, and back for what comes after."""
    if not place.spread:
        return
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    language = network.model.language_model
    for layer, device in zip(language.layers, place.spread, strict=True):
        add_hook_to_module(layer, AlignDevicesHook(execution_device=device))
    add_hook_to_module(language.norm, AlignDevicesHook(execution_device=place.device))


def visible_devices(first: torch.device) -> list[torch.device]:
    """Return the devices of a kind that this process may use, the given one first."""
    if first.type != "cuda":
        return [first]
    return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
