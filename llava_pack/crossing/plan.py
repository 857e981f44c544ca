"""Which file goes on which medium. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from llava_pack.crossing.media import MediumSize
from llava_pack.format.chunks import FileChunk, piece_name, within
from llava_pack.format.errors import UsageError
from llava_pack.format.part import MediumPart
from llava_pack.format.text import human_bytes

STARTS = ("install.sh", "installer/", "runtime/python-version.txt", "runtime/cpython-")
"""What install.sh starts with: every medium has it, where it is a small part of the medium."""
_SMALL_PART = 8
_ORDER = (*STARTS, "probe.sh", "runtime/", "lock/", "sbom/", "licenses/", "wheels/", "model/")
"""What is needed first comes first."""
_PART_BYTES = 8192
"""Of PART.json, beside the names in it."""
PARITY_BYTES = 1 << 20
"""Of recovery volumes, beside their share of the files."""
_NAME_BYTES = 32
"""That a name of a file takes there more than its path."""


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
    fixed_bytes: int
    """What is on every medium, with PART.json."""
    parity_percent: int
    loads: list[Load] = field(default_factory=list)
    taken_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """How many bytes are written, recovery volumes left aside."""
        return self.fixed_bytes + sum(load.size_bytes for load in self.loads)

    @property
    def left_bytes(self) -> int:
        """How much a file may still have, at most."""
        if self.size is None:
            return 1 << 62
        room = (self.size.room_bytes - self.fixed_bytes) / (1 + self.parity_percent / 100)
        return int(room) - self.taken_bytes

    def fits(self, size_bytes: int) -> bool:
        """Say whether a file of so many bytes still fits."""
        return self._taken(size_bytes) <= self.left_bytes

    def add(self, load: Load) -> None:
        """Put a file or piece on the medium."""
        self.loads.append(load)
        self.taken_bytes += self._taken(load.size_bytes)

    def _taken(self, size_bytes: int) -> int:
        return size_bytes if self.size is None else self.size.taken(size_bytes)


@dataclass(frozen=True, kw_only=True)
class CarryPlan:
    """Which file goes on which medium."""

    bundle_id: str
    media: tuple[MediumPlan, ...]
    parity_percent: int = 0
    """Of each medium's files, that recovery volumes take beside them."""

    @property
    def size_bytes(self) -> int:
        """How many bytes are written, recovery volumes left aside."""
        return sum(medium.size_bytes for medium in self.media)

    def part(self, number: int, parity: Sequence[str] = ()) -> MediumPart:
        """Return PART.json of a medium, counted from 1."""
        return MediumPart(
            bundle_id=self.bundle_id,
            medium=number,
            media=tuple(tuple(sorted(load.name for load in one.loads)) for one in self.media),
            parity=tuple(sorted(parity)),
        )


def plan_media(
    bundle_id: str,
    files: Iterable[CarriedFile],
    sizes: Callable[[int], MediumSize | None],
    *,
    list_bytes: int,
    parity_percent: int = 0,
    changed: bool = False,
) -> CarryPlan:
    """Return which file goes on which medium: what is needed first on the first ones.

    A file that is larger than a medium travels in pieces of whole chunks, any other whole.

    Args:
        bundle_id: of the bundle.
        files: what travels.
        sizes: of each medium, counted from 0; None for one that everything fits on.
        list_bytes: of the files that every medium has: SHA256SUMS, the manifest, signatures.
        parity_percent: of each medium's files, that recovery volumes take beside them.
        changed: the list itself has to travel, even where no file does.

    Raises:
        UsageError: a medium is too small for what cannot be divided.
    """
    ordered = sorted(files, key=lambda one: (_rank(one.path), one.path))
    names_bytes = sum(len(one.path) + _NAME_BYTES for one in ordered)
    parity_bytes = PARITY_BYTES if parity_percent else 0
    media: list[MediumPlan] = []

    def opened() -> MediumPlan:
        medium = MediumPlan(
            size=sizes(len(media)),
            fixed_bytes=list_bytes + _PART_BYTES + 2 * names_bytes + parity_bytes,
            parity_percent=parity_percent,
        )
        media.append(medium)
        room = medium.left_bytes
        if sum(one.size_bytes for one in starting) * _SMALL_PART <= room or len(media) == 1:
            for one in starting:
                _put(medium, Load(one))
        return medium

    starting = [one for one in ordered if one.path.startswith(STARTS) and not one.wanted]
    opened()
    for one in ordered:
        if one in starting:
            continue
        if one.wanted:
            _divide(one, one.wanted, media, opened)
            continue
        medium = next((each for each in media if each.fits(one.size_bytes)), None) or opened()
        if medium.fits(one.size_bytes) or not one.chunks:
            _put(medium, Load(one))
        else:
            _divide(one, ((0, one.size_bytes),), media, opened)
    return CarryPlan(
        bundle_id=bundle_id,
        media=tuple(one for one in media if one.loads) or (tuple(media[:1]) if changed else ()),
        parity_percent=parity_percent,
    )


def _rank(path: str) -> int:
    return next((at for at, start in enumerate(_ORDER) if path.startswith(start)), len(_ORDER))


def _put(medium: MediumPlan, load: Load) -> None:
    if not medium.fits(load.size_bytes):
        raise UsageError(
            f"{load.name} ({human_bytes(load.size_bytes)}) does not fit on a medium: "
            f"{human_bytes(max(0, medium.left_bytes))} are left beside what each of them holds",
            subject="--media",
            hint="take larger media; large files of a bundle that an earlier version built cannot "
            "be divided: build it again",
        )
    medium.add(load)


def _divide(
    file: CarriedFile,
    spans: Iterable[tuple[int, int]],
    media: list[MediumPlan],
    opened: Callable[[], MediumPlan],
) -> None:
    """Put spans of a file on media, as many whole chunks on each as it has room for."""
    for start, end in spans:
        rest = within(file.chunks, start, end)
        while rest:
            first = rest[0]
            medium = next((one for one in media if one.fits(first.size_bytes)), None) or opened()
            count = 1
            while count < len(rest) and medium.fits(rest[count].end - first.offset):
                count += 1
            _put(medium, Load(file, first.offset, rest[count - 1].end))
            rest = rest[count:]
