"""How many files and folders wheels unpack to.

Source: docs/reference/benchmarks.md, "Inodes".
"""

from collections.abc import Iterable

_INODE_BYTES = 7_000
_WHEEL_INODES = 15_000


def guessed_inodes(wheels: Iterable[int]) -> int:
    """Return about how many files and folders wheels of these sizes in bytes unpack to."""
    return sum(10 + min(size // _INODE_BYTES, _WHEEL_INODES) for size in wheels)
