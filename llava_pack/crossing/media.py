"""How large a medium is, and what fits on it. Pure."""

import re
from dataclasses import dataclass

from llava_pack.format.errors import UsageError

_UNITS = {"": 1, "mb": 10**6, "gb": 10**9, "tb": 10**12, "mib": 1 << 20, "gib": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+(?=\s*[mgt]))?)\s*(mb|gb|tb|mib|gib|)(-fat32)?", re.IGNORECASE)
_NOMINAL = 0.96
"""What a medium has at least of the size that it is sold as, its file system taken off."""
BLOCK_BYTES = 4096
"""Of most file systems."""
_FAT32_BLOCK_BYTES = 32768
_WHOLE = 100


@dataclass(frozen=True, kw_only=True)
class MediumSize:
    """What a medium can hold."""

    room_bytes: int
    block_bytes: int = BLOCK_BYTES
    """Each file takes a whole number of these."""

    def taken(self, size_bytes: int) -> int:
        """Return how much a file of `size_bytes` takes.

        >>> MediumSize(room_bytes=0, block_bytes=4096).taken(4097)
        8192
        """
        return -(-size_bytes // self.block_bytes) * self.block_bytes


def parse_percent(text: str) -> int:
    """Return how much `--parity` says.

    >>> parse_percent("5%"), parse_percent("10")
    (5, 10)

    Raises:
        UsageError: it is no whole number from 1 to 100.
    """
    number = text.strip().removesuffix("%").strip()
    if number.isdecimal() and 1 <= int(number) <= _WHOLE:
        return int(number)
    message = f"expected 1% to 100%, got {text!r}"
    raise UsageError(message, subject="--parity", hint="5% repairs a few bad places")


def parse_media(text: str) -> MediumSize:
    """Return the size that `--media` says: as media are sold, or in bytes.

    >>> parse_media("4.7GB").room_bytes, parse_media("5000000").room_bytes
    (4512000000, 5000000)

    Raises:
        UsageError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise UsageError(
            f"expected a size such as 4.7GB, 25GB, 32GB-fat32, 650MB or a number of bytes, "
            f"got {text!r}",
            subject="--media",
            hint="the size that is printed on the medium",
        )
    unit = match[2].lower()
    size_bytes = float(match[1]) * _UNITS[unit] * (_NOMINAL if unit else 1)
    block_bytes = _FAT32_BLOCK_BYTES if match[3] else BLOCK_BYTES
    return MediumSize(room_bytes=int(size_bytes), block_bytes=block_bytes)
