"""What each medium is to hold, and how much room that takes. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from llava_pack.crossing.media import MediumSize
from llava_pack.crossing.volumes import volumes_bytes
from llava_pack.format.chunks import FileChunk, piece_name, within
from llava_pack.format.part import MediumPart
from llava_pack.format.sums import MANIFEST_NAME

INSTALLER = "install.sh"
STARTS = (INSTALLER, "installer/", "runtime/python-version.txt", "runtime/cpython-")
"""What install.sh starts with: every medium has it, where it is a small part of the medium."""


@dataclass(frozen=True, kw_only=True)
class CarriedFile:
    """A listed file that travels, or the chunks of one that do."""

    path: str
    size_bytes: int
    """Of the whole file."""
    sha256: str
    chunks: tuple[FileChunk, ...] = ()
    """All of the file; none where it has one alone."""
    wanted: tuple[tuple[int, int], ...] = ()
    """Spans of it that alone are wanted; none where all of it is."""


@dataclass(frozen=True)
class Load:
    """What a medium holds of a file: all of it, or a span."""

    file: CarriedFile
    start: int = 0
    end: int | None = None

    @property
    def name(self) -> str:
        """The name on the medium."""
        return self.file.path if self.end is None else piece_name(self.file.path, self.start)

    @property
    def size_bytes(self) -> int:
        """How many bytes."""
        return (self.file.size_bytes if self.end is None else self.end) - self.start

    @property
    def digests(self) -> list[str]:
        """The digest of the file; of a span, those of its chunks."""
        return [self.file.sha256] if self.end is None else [one.sha256 for one in self._chunks]

    @property
    def parts(self) -> list[int]:
        """How many bytes each of `digests` is of."""
        return [self.size_bytes] if self.end is None else [one.size_bytes for one in self._chunks]

    @property
    def _chunks(self) -> tuple[FileChunk, ...]:
        return within(self.file.chunks, self.start, self.end or 0)


@dataclass(kw_only=True)
class MediumPlan:
    """What one medium is to hold, beside the list of the bundle."""

    size: MediumSize | None
    """None for one that everything fits on."""
    place: int
    """Which of the folders that were given it is for, counted from 0."""
    fixed_bytes: int
    """What is on every medium, with PART.json."""
    fixed_blocks: int
    """That folders, and the last ones of what is on every medium, take beside them."""
    parity_percent: int
    loads: list[Load] = field(default_factory=list)
    _loaded_bytes: int = field(default=0, init=False)
    _taken_bytes: int = field(default=0, init=False)
    _names_bytes: int = field(default=0, init=False)

    @property
    def content_bytes(self) -> int:
        """How many bytes are written, recovery volumes left aside."""
        return self.fixed_bytes + self._loaded_bytes

    @property
    def parity_bytes(self) -> int:
        """How many bytes recovery volumes take, at most."""
        return self._parity_bytes(0)

    @property
    def size_bytes(self) -> int:
        """How many bytes are written."""
        return self.content_bytes + self.parity_bytes

    @property
    def left_bytes(self) -> int:
        """How much is left; less than nothing where not even the list fits."""
        return 1 << 62 if self.size is None else self.size.room_bytes - self._needed(self.size, ())

    def fits(self, *loads: Load) -> bool:
        """Say whether files or pieces still fit."""
        return self.size is None or self._needed(self.size, loads) <= self.size.room_bytes

    def add(self, load: Load) -> None:
        """Put a file or piece on the medium."""
        self.loads.append(load)
        self._loaded_bytes += load.size_bytes
        self._taken_bytes += 0 if self.size is None else self.size.taken(load.size_bytes)
        self._names_bytes += len(load.name.encode())

    def taken_bytes(self, block_bytes: int, *, without: Collection[str] = ()) -> int:
        """Return how much less a disk of such blocks has free for it, some loads left aside."""
        size = MediumSize(room_bytes=0, block_bytes=block_bytes)
        loads = (load for load in self.loads if load.name not in without)
        taken = sum(size.taken(load.size_bytes) for load in loads)
        return self._fixed(size) + taken + self._parity_bytes(block_bytes)

    def _needed(self, size: MediumSize, more: Sequence[Load]) -> int:
        """Return how much of the medium is taken once it holds some more."""
        loads = self._taken_bytes + sum(size.taken(load.size_bytes) for load in more)
        return self._fixed(size) + loads + self._parity_bytes(size.block_bytes, more)

    def _fixed(self, size: MediumSize) -> int:
        return size.taken(self.fixed_bytes) + self.fixed_blocks * size.block_bytes

    def _parity_bytes(self, block_bytes: int, more: Sequence[Load] = ()) -> int:
        names_bytes = self._names_bytes + sum(len(load.name.encode()) for load in more)
        return volumes_bytes(
            len(self.loads) + len(more) + 1,
            names_bytes + len(MANIFEST_NAME),  # it is protected too
            self.content_bytes + sum(load.size_bytes for load in more),
            self.parity_percent,
            block_bytes=block_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class CarryPlan:
    """Which file goes on which medium."""

    bundle_id: str
    media: tuple[MediumPlan, ...]
    parity_percent: int = 0
    """Of each medium's files, that recovery volumes take beside them."""

    def part(self, number: int, parity: Sequence[str] = ()) -> MediumPart:
        """Return PART.json of a medium, counted from 1."""
        return MediumPart(
            bundle_id=self.bundle_id,
            medium=number,
            media=tuple(tuple(sorted(load.name for load in one.loads)) for one in self.media),
            parity=tuple(sorted(parity)),
        )
