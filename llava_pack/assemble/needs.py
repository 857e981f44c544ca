"""What a bundle needs beside itself: a server of a certain kind, and a medium of a certain size."""

from collections.abc import Iterable, Iterator

from llava_pack.format.manifest import Manifest
from llava_pack.format.text import human_bytes

PORT = 7860
"""That serving listens on, unless told otherwise."""
_STICKS_GB = (8, 16, 32, 64, 128, 256, 512, 1000, 2000, 4000)
_USABLE = 0.93
"""Of a stick, what is left when a file system is on it, and its maker has rounded up."""
_DVD_BYTES = 4_700_372_992
"""Source: ECMA-349, DVD+R of one layer, the smaller of the two kinds: 2,295,104 sectors."""
_BLU_RAY_BYTES = 25_025_314_816
"""Source: Blu-ray Disc Association, white paper of BD-R: one layer, 12,219,392 sectors."""
_DISC_USABLE = 0.99


def target_needs(manifest: Manifest) -> Iterator[str]:
    """Yield what a server must have, a few words each."""
    floors = manifest.floors
    yield floors.arch
    if floors.glibc is not None:
        yield f"glibc {floors.glibc}"
    if floors.driver is not None:
        yield f"NVIDIA driver {floors.driver}"
    if floors.compute_capability is not None:
        yield f"compute capability {floors.compute_capability}"
    yield from floors.tools
    memory = floors.memory_bytes.get(manifest.serving.precision)
    if memory is not None:
        size = human_bytes(memory)
        yield f"{size} of memory" if floors.driver is None else f"{size} of GPU memory"
    yield f"{human_bytes(floors.disk_bytes)} of disk"


def server_needs(manifest: Manifest) -> Iterator[str]:
    """Yield the same, and what installing and serving need."""
    yield from target_needs(manifest)
    python = manifest.python
    if python.path is None:
        yield f"Python {python.version}"
    else:
        yield "no Python"
    yield f"port {PORT} free"


def media(sizes: Iterable[int]) -> str:
    """Return what holds a bundle: a stick, or how many discs.

    Args:
        sizes: of its files in bytes; a file is never cut.

    >>> media([3_900_000_000] * 3 + [1_800_000_000])
    '1 x 16 GB stick, 4 x DVD, or 1 x Blu-ray'
    """
    files = sorted(sizes, reverse=True)
    fits = (size for size in _STICKS_GB if size * 1e9 * _USABLE >= sum(files))
    stick = next(fits, _STICKS_GB[-1])
    dvds, discs = (_discs(files, int(room * _DISC_USABLE)) for room in (_DVD_BYTES, _BLU_RAY_BYTES))
    return f"1 x {stick} GB stick, {dvds} x DVD, or {discs} x Blu-ray"


def _discs(files: Iterable[int], room: int) -> int:
    """Return how many discs files fill, each put on the first that has room for it."""
    free: list[int] = []
    for size in files:
        place = next((number for number, left in enumerate(free) if left >= size), None)
        if place is None:
            free.append(room - size)
        else:
            free[place] -= size
    return len(free)
