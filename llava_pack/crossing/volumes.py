"""How recovery data is cut, and how much room it takes. Pure.

Source: the Parity Volume Set Specification 2.0.
"""

from dataclasses import dataclass

from llava_pack.format.errors import UsageError
from llava_pack.target import par2

_BLOCKS = 1000
"""Of a medium; 5 % are 50 recovery blocks. Source: docs/reference/benchmarks.md."""
_MOST_BLOCKS = 20_000
"""Beside one for each of 10,000 files: the format has 32,768 at most."""
_LEAST_BLOCK_BYTES = 4096
_VOLUME_BYTES = 2 << 30
"""About, so that FAT32 holds every volume."""
_MOST_VOLUMES = 31  # Source: `par2 --help`, -n
_BLOCK_HEADER = 68
_FILE_PACKETS = 64 + 56 + 3 + 64 + 16 + 16
"""Of a file, beside its name: its description, the head of its checksums, and its number."""
_CHECKSUMS = 20
"""Of a block of a file."""
_SET_PACKETS = 64 + 12
_CREATOR_PACKET = 256
"""At most: it has the version of the program."""


@dataclass(frozen=True, kw_only=True)
class VolumePlan:
    """How recovery data is cut."""

    block_bytes: int
    recovery_blocks: int
    volumes: int

    @property
    def size_bytes(self) -> int:
        """Return the recovery data, without what leads it."""
        return self.block_bytes * self.recovery_blocks


def plan_volumes(total_bytes: int, percent: int) -> VolumePlan:
    """Return how recovery data of `percent` of some files is cut.

    Work grows with the number of blocks, what one flipped byte costs with their size.

    Raises:
        UsageError: `percent` is not from 1 to 100.

    >>> plan_volumes(4_000_000_000, 5)
    VolumePlan(block_bytes=4000000, recovery_blocks=50, volumes=1)
    """
    if not 1 <= percent <= 100:
        raise UsageError(f"expected 1 % to 100 % of recovery data, got {percent} %")
    whole = min(-(-total_bytes // _BLOCKS), par2.MAX_BLOCK_BYTES)
    block = max(whole, -(-total_bytes // _MOST_BLOCKS), _LEAST_BLOCK_BYTES)
    block += -block % 4
    count = max(-(-total_bytes * percent // (100 * block)), 1)
    volumes = min(-(-count * block // _VOLUME_BYTES), _MOST_VOLUMES)
    return VolumePlan(block_bytes=block, recovery_blocks=count, volumes=volumes)


def volumes_bytes(
    files: int, names_bytes: int, total_bytes: int, percent: int, *, block_bytes: int = 0
) -> int:
    """Return how much the recovery volumes of some files take at most.

    What describes the files stands in the index once, and in a volume once for each doubling of its
    blocks. For small files that is more than the recovery data itself.

    Args:
        files: how many.
        names_bytes: of their paths.
        total_bytes: of the files, or a little more.
        percent: recovery data, in hundredths of that; 0 for none.
        block_bytes: each volume and their folder take a whole number of these.

    >>> volumes_bytes(600, 42_000, 3_600_000, 5), volumes_bytes(4, 200, 4_000_000_000, 5)
    (1609400, 204152860)
    """
    if not percent:
        return 0
    plan = plan_volumes(total_bytes, percent)
    blocks = total_bytes // plan.block_bytes + files
    described = _SET_PACKETS + files * _FILE_PACKETS + names_bytes + blocks * _CHECKSUMS
    copies = 1 + plan.volumes * (-(-plan.recovery_blocks // plan.volumes)).bit_length()
    recovery = (plan.recovery_blocks + 1) * (plan.block_bytes + _BLOCK_HEADER)
    return copies * described + recovery + (plan.volumes + 2) * (_CREATOR_PACKET + block_bytes)
