"""Which file goes on which medium. Pure."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

from llava_pack.crossing.media import MediumSize
from llava_pack.crossing.plan import STARTS, CarriedFile, CarryPlan, Load, MediumPlan
from llava_pack.format.chunks import CHUNK_BYTES, within
from llava_pack.format.errors import UsageError
from llava_pack.format.sums import SUMS_NAME
from llava_pack.format.text import human_bytes

_SMALL_PART = 8
_ORDER = (*STARTS, "probe.sh", "runtime/", "lock/", "sbom/", "licenses/", "wheels/", "model/")
"""What is needed first comes first."""
_PART_BYTES = 8192
"""Of PART.json, beside the names in it."""
_NAME_BYTES = 32
"""That a name of a file takes there more than its path."""
_HEAD_FILES = 8
"""On every medium at most: SHA256SUMS, the manifest, signatures, PART.json."""

_EmptyMedium = Callable[[MediumSize | None, int], MediumPlan]


def plan_media(
    bundle_id: str,
    files: Iterable[CarriedFile],
    sizes: Sequence[MediumSize | None],
    *,
    list_bytes: int,
    parity_percent: int = 0,
    changed: bool = False,
    more: bool = False,
) -> CarryPlan:
    """Return which file goes on which medium: what is needed first on the first ones.

    A file that is larger than a medium travels in pieces of whole chunks, any other whole. A medium
    that nothing fits on is left out.

    Args:
        bundle_id: of the bundle.
        files: what travels.
        sizes: of each medium that there is, in order; None for one that everything fits on.
        list_bytes: of the files that every medium has: SHA256SUMS, the manifest, signatures.
        parity_percent: of each medium's files, that recovery volumes take beside them.
        changed: the list itself has to travel, even where no file does.
        more: there are as many media of the last size as are needed.

    Raises:
        UsageError: the media are too small for what cannot be divided, or too few.
    """
    ordered = sorted(files, key=lambda one: needed_first(one.path))
    starting = [one for one in ordered if one.path.startswith(STARTS) and not one.wanted]
    stack = _Stack(sizes, empty_medium(ordered, list_bytes, parity_percent), starting, more=more)
    stack.start()
    for one in ordered:
        if one in starting or (not one.wanted and stack.put(Load(one))):
            continue
        if not one.chunks:
            raise stack.refusal(one.path, one.size_bytes, old=one.size_bytes > CHUNK_BYTES)
        _divide(one, stack)
    media = stack.needed()
    if changed and not media:
        first = stack.first()
        if first is None:
            raise stack.refusal(SUMS_NAME, list_bytes)
        media = (first,)
    return CarryPlan(bundle_id=bundle_id, media=media, parity_percent=parity_percent)


def empty_medium(
    files: Sequence[CarriedFile], list_bytes: int, parity_percent: int
) -> _EmptyMedium:
    """Return what makes a medium of a size, for a place, that has nothing but the list yet."""
    names_bytes = sum(len(one.path) + _NAME_BYTES for one in files)
    folders = {folder for one in files for folder in PurePosixPath(one.path).parents}

    def empty(size: MediumSize | None, place: int) -> MediumPlan:
        return MediumPlan(
            size=size,
            place=place,
            fixed_bytes=list_bytes + _PART_BYTES + 2 * names_bytes,
            fixed_blocks=len(folders) + _HEAD_FILES,
            parity_percent=parity_percent,
        )

    return empty


def needed_first(path: str) -> tuple[int, str]:
    """Return what files are sorted by, so that what is needed first comes first."""
    rank = next((at for at, start in enumerate(_ORDER) if path.startswith(start)), len(_ORDER))
    return rank, path


def _divide(file: CarriedFile, stack: "_Stack") -> None:
    """Put a file, or what is wanted of it, on media: on each as many chunks as it has room for."""
    for start, end in file.wanted or ((0, file.size_bytes),):
        rest = within(file.chunks, start, end)
        while rest:
            first = rest[0]
            medium = stack.first(Load(file, first.offset, first.end))
            if medium is None:
                raise stack.refusal(Load(file, first.offset, first.end).name, first.size_bytes)
            count = 1
            while count < len(rest) and medium.fits(Load(file, first.offset, rest[count].end)):
                count += 1
            medium.add(Load(file, first.offset, rest[count - 1].end))
            rest = rest[count:]


class _Stack:
    """Media that are being filled."""

    def __init__(
        self,
        sizes: Sequence[MediumSize | None],
        empty: _EmptyMedium,
        starting: Iterable[CarriedFile],
        *,
        more: bool,
    ) -> None:
        self._sizes = sizes
        self._empty = empty
        self._starting = [Load(one) for one in starting]
        self._more = more
        self._media: list[MediumPlan] = []

    def start(self) -> None:
        """Have what install.sh starts with on a medium.

        Raises:
            UsageError: none has room for all of it.
        """
        while self._starting and not self._started:
            if len(self._media) >= len(self._sizes):
                names = sorted({one.name.partition("/")[0] for one in self._starting})
                size_bytes = sum(one.size_bytes for one in self._starting)
                raise self.refusal(", ".join(names), size_bytes)
            self._open()

    def first(self, *loads: Load) -> MediumPlan | None:
        """Return the first medium with room for some files, a new one if need be, None if none."""
        found = next((one for one in self._media if one.fits(*loads)), None)
        while found is None and (self._more or len(self._media) < len(self._sizes)):
            opened = self._open()
            if opened.fits(*loads):
                found = opened
            elif len(self._media) >= len(self._sizes):
                break  # the next one is as small
        return found

    def put(self, load: Load) -> bool:
        """Put a file on the first medium with room for it; False where there is none."""
        medium = self.first(load)
        if medium is not None:
            medium.add(load)
        return medium is not None

    def needed(self) -> tuple[MediumPlan, ...]:
        """Return the media that hold what no other one does."""
        begin = {load.name for load in self._starting}
        needed = [one for one in self._media if any(load.name not in begin for load in one.loads)]
        if begin and not any(load.name in begin for one in needed for load in one.loads):
            needed.append(next(one for one in self._media if one.loads))
        return tuple(sorted(needed, key=lambda one: one.place))

    def refusal(self, name: str, size_bytes: int, *, old: bool = False) -> UsageError:
        """Return why a file has no place.

        Args:
            name: of it.
            size_bytes: of it.
            old: it is large, and nothing is known of its chunks.
        """
        empty = [self._empty(size, place) for place, size in enumerate(self._sizes)]
        most_bytes = max(
            0, *(one.left_bytes for one in (self._media[-1:] if self._more else empty))
        )
        subject = "--media" if self._more else "--to"
        if not self._more and size_bytes <= most_bytes:
            return UsageError(
                f"more than {len(self._sizes)} media are needed",
                subject=subject,
                hint="pass more folders, or larger media; --dry-run with one --to counts them",
            )
        hint = "take larger media"
        if empty[0].parity_percent:
            hint = "take larger media, or less recovery data"
        if old:
            hint = (
                "take larger media, or build the bundle again: an earlier version built it, and "
                "its large files cannot be divided"
            )
        return UsageError(
            f"{name} ({human_bytes(size_bytes)}) does not fit on a medium: "
            f"{human_bytes(most_bytes)} are left beside what each of them holds",
            subject=subject,
            hint=hint,
        )

    @property
    def _started(self) -> bool:
        return any(one.loads for one in self._media)

    def _open(self) -> MediumPlan:
        place = len(self._media)
        medium = self._empty(self._sizes[min(place, len(self._sizes) - 1)], place)
        self._media.append(medium)
        size_bytes = sum(one.size_bytes for one in self._starting)
        small = size_bytes * _SMALL_PART <= medium.left_bytes
        if (small or not self._started) and medium.fits(*self._starting):
            for one in self._starting:
                medium.add(one)
        return medium
