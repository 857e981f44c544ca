"""One model on several GPUs: which layer goes where, and what moves between them.

Layers are put on the visible devices in order, so that each is filled to the same part of what it
has free, by the rule that `plan` counts with (`llava_pack.checkpoint.footprint`); embeddings,
tower, projector and head stay on the first. `CUDA_VISIBLE_DEVICES` says which devices there are.
Two GPUs have not run this yet: see docs/explanation/engine.md.
"""

import re
from typing import Any

import torch

from llava_pack.engine.arrivals import Placement

_ARCH = re.compile(r"sm_(\d+)")


def follow_devices(network: Any, place: Placement) -> None:
    """Have what a layer is given moved to where the layer is, and back for what comes after."""
    if not place.spread:
        return
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    language = network.model.language_model
    for layer, device in zip(language.layers, place.spread, strict=True):
        add_hook_to_module(layer, AlignDevicesHook(execution_device=device))
    add_hook_to_module(language.norm, AlignDevicesHook(execution_device=place.device))


def visible_devices(first: torch.device, at_most: int | None = None) -> list[torch.device]:
    """Return the devices of a kind that this process may use, the given one first.

    GPUs that this torch has no code for are left out, and of the others those with least memory.

    Args:
        first: what the model is loaded on.
        at_most: how many; None for all.
    """
    if first.type != "cuda":
        return [first]
    compiled = [int(found[1]) for one in torch.cuda.get_arch_list() if (found := _ARCH.match(one))]
    devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    able = [one for one in devices[1:] if _capability(one) >= min(compiled, default=0)]
    able.sort(key=lambda one: -torch.cuda.get_device_properties(one).total_memory)
    return [devices[0], *able][:at_most]


def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
