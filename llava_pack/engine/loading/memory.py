"""How much memory there is, and how many requests of which length it holds."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llava_pack.format.errors import SpaceError
from llava_pack.format.text import human_bytes

if TYPE_CHECKING:
    import torch

_SHARE = 0.9
"""Part of what is free beside the work's own memory that keys and values may take."""
MIN_TOKENS = 256
"""A request shorter than this is not worth serving."""
_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_AVAILABLE = "MemAvailable:"


@dataclass(frozen=True, slots=True)
class Room:
    """Rows of the cache and the tokens that each holds."""

    slots: int
    context_tokens: int


def plan_room(free_bytes: int, token_bytes: int, slots: int, context_tokens: int) -> Room:
    """Return how many requests fit: fewer slots before shorter ones.

    Args:
        free_bytes: memory left once the weights are loaded.
        token_bytes: keys and values of one token.
        slots: wanted.
        context_tokens: wanted.

    Raises:
        SpaceError: not even one short request fits.

    >>> plan_room(1000 * 4096, 100, 8, 4096)
    Room(slots=8, context_tokens=4096)
    >>> plan_room(100 * 4096 * 2, 100, 8, 4096)
    Room(slots=1, context_tokens=4096)
    """
    tokens = int(free_bytes * _SHARE) // token_bytes
    fitting = min(slots, tokens // context_tokens)
    if fitting >= 1:
        return Room(fitting, context_tokens)
    if tokens < MIN_TOKENS:
        need = MIN_TOKENS * token_bytes
        raise SpaceError(
            f"not enough memory for one request: {human_bytes(free_bytes)} are free, "
            f"{human_bytes(need)} are needed",
            hint="use a lower precision (--precision nf4), or free some memory",
        )
    return Room(1, tokens)


def free_memory(device: "torch.device") -> int:
    """Return the bytes that can still be allocated on a device."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_available_bytes(), _cgroup_bytes())


def _available_bytes() -> int:
    """Return what Linux says can be had without swapping; elsewhere half of the memory."""
    try:
        lines = _MEMINFO.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(_AVAILABLE))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _cgroup_bytes() -> int:
    """Return what the process's own memory limit leaves; very much where there is none."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        return max(0, int(limit) - used)
    except (OSError, ValueError):
        return 1 << 62
