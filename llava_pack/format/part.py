"""PART.json: which files of a bundle are on which medium. Never evidence of what is in them.

Source: docs/reference/bundle-format.md, "Partial bundles".
"""

from bisect import bisect_right, insort
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from llava_pack.format import canonical, records
from llava_pack.format.chunks import parse_piece
from llava_pack.format.errors import IntegrityError
from llava_pack.format.sums import PARITY_FOLDER, is_parity

PART_NAME = "PART.json"
MAX_PART_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class MediumPart:
    """One medium of the set that a bundle, or what was missing of one, travels on."""

    schema: int = 1
    bundle_id: str
    medium: int
    """Which one this is, counted from 1."""
    media: tuple[tuple[str, ...], ...]
    """For each medium its listed files and pieces, sorted, as they are named there."""
    parity: tuple[str, ...] = ()
    """The recovery volumes on this medium."""

    @property
    def label(self) -> str:
        """The name of this medium, for people: which bundle, and which of how many.

        >>> MediumPart(bundle_id="3f9a1b2c" * 8, medium=2, media=((), ())).label
        '3f9a1b2c 2 of 2'
        """
        return f"{self.bundle_id[:8]} {self.medium} of {len(self.media)}"

    @property
    def here(self) -> tuple[str, ...]:
        """The listed files and pieces that this medium is to hold."""
        return self.media[self.medium - 1]

    def piece_end(self, path: str, start: int, size_bytes: int) -> int:
        """Return where a piece of a file of `size_bytes` ends that begins at `start`.

        It ends where another one begins, on whichever medium.
        """
        starts = self._starts.get(path, [])
        after = bisect_right(starts, start)
        return starts[after] if after < len(starts) else size_bytes

    @cached_property
    def _starts(self) -> Mapping[str, list[int]]:
        """Where the pieces of each file begin, sorted."""
        found: dict[str, list[int]] = {}
        for piece in filter(None, map(parse_piece, chain.from_iterable(self.media))):
            insort(found.setdefault(piece[0], []), piece[1])
        return found


def render_part(part: MediumPart) -> bytes:
    """Return the bytes of PART.json."""
    return canonical.dumps(records.encode(part))


def parse_part(data: bytes, bundle_id: str, sums: Mapping[str, str]) -> MediumPart:
    """Return what PART.json says; it has one encoding, so that nothing else hides in it.

    Args:
        data: its bytes.
        bundle_id: of the bundle that it lies in.
        sums: the digest of each listed path.

    Raises:
        IntegrityError: it is not what `carry` writes for this bundle.
    """
    defects = records.Defects()
    part = records.decode(MediumPart, canonical.loads(data, max_bytes=MAX_PART_BYTES), defects)
    if part is None or render_part(part) != data:
        raise IntegrityError(records.summary(defects) or "not canonical", subject=PART_NAME)
    if part.bundle_id != bundle_id:
        message = f"is of bundle {part.bundle_id:.64}, expected {bundle_id}"
        raise IntegrityError(message, subject=PART_NAME)
    named = [name for medium in part.media for name in medium]
    if any(list(medium) != sorted(set(medium)) for medium in part.media):
        raise IntegrityError("names files twice, or not in order", subject=PART_NAME)
    if not 1 <= part.medium <= len(part.media) or not all(_listed(name, sums) for name in named):
        raise IntegrityError("names what SHA256SUMS does not list", subject=PART_NAME)
    if not all(map(is_parity, part.parity)):
        raise IntegrityError(f"names files outside {PARITY_FOLDER}/", subject=PART_NAME)
    return part


def _listed(name: str, sums: Mapping[str, str]) -> bool:
    piece = parse_piece(name)
    return name in sums or (piece is not None and piece[0] in sums)
