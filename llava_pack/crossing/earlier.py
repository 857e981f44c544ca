"""The plan of an earlier run, as its media say it: the same command goes on with it.

What is free on media is never twice the same, so another plan would cut files at other places.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from llava_pack.crossing.filling import empty_medium, needed_first
from llava_pack.crossing.media import MediumSize
from llava_pack.crossing.medium_folder import explained, own_folders
from llava_pack.crossing.plan import CarriedFile, CarryPlan, Load, MediumPlan
from llava_pack.crossing.request import CarrySource
from llava_pack.format.chunks import parse_piece
from llava_pack.format.part import MediumPart
from llava_pack.format.sums import SUMS_NAME
from llava_pack.target.unlisted import part_at


def earlier_media(
    source: CarrySource, to: Sequence[Path], name: str
) -> Sequence[Mapping[int, MediumPart]]:
    """Return by place what the media say that are there, for each set that they are of.

    Args:
        source: the bundle.
        to: where each medium is mounted.
        name: of the bundle's folder on it.
    """
    found: dict[tuple[tuple[str, ...], ...], dict[int, MediumPart]] = {}
    for place, there in enumerate(to):
        with explained(there):
            for folder in own_folders(there, name):
                if (part := part_at(source.listing, folder) or _whole(source, folder)) is not None:
                    found.setdefault(part.media, {})[place] = part
    return sorted(found.values(), key=len, reverse=True)


def _whole(source: CarrySource, folder: Path) -> MediumPart | None:
    """Return what a medium is that holds the whole bundle, which has no PART.json."""
    sums = folder / SUMS_NAME
    if not sums.is_file() or sums.read_bytes() != source.head[SUMS_NAME]:
        return None
    names = tuple(sorted(one.path for one in source.files()))
    return MediumPart(bundle_id=source.listing.bundle_id, medium=1, media=(names,))


def resumed(
    files: Sequence[CarriedFile],
    parts: Mapping[int, MediumPart],
    sizes: Sequence[MediumSize | None],
    *,
    list_bytes: int,
    parity_percent: int,
) -> CarryPlan | None:
    """Return the plan that media were written by; None where it is not one for these files.

    Args:
        files: what travels now.
        parts: what the media say that are there, of one set, by their place.
        sizes: of each medium that there is, in order.
        list_bytes: of the files that every medium has.
        parity_percent: of each medium's files, that recovery volumes take beside them.
    """
    (part, *_) = parts.values()
    by_path = {one.path: one for one in files}
    loads = [
        [_load(name, part, by_path) for name in sorted(names, key=needed_first)]
        for names in part.media
    ]
    if not _complete([one for each in loads for one in each], files):
        return None
    at = {one.medium: place for place, one in parts.items()}
    empty = empty_medium(files, list_bytes, parity_percent)
    media: list[MediumPlan] = []
    for number, each in enumerate(loads, start=1):
        taken = {*parts, *(one.place for one in media)}
        rest = [place for place in range(len(sizes)) if place not in taken]
        places = [at[number]] if number in at else rest
        filled = (_filled(empty(sizes[place], place), each) for place in places)
        medium = next((one for one in filled if _holds(one, parts.get(one.place))), None)
        if medium is None:
            return None
        media.append(medium)
    return CarryPlan(bundle_id=part.bundle_id, media=tuple(media), parity_percent=parity_percent)


def _load(name: str, part: MediumPart, files: Mapping[str, CarriedFile]) -> Load | None:
    """Return what a name on a medium is of; None where it is nothing that travels now."""
    if (file := files.get(name)) is not None:
        return None if file.wanted else Load(file)
    path, start = parse_piece(name) or ("", 0)
    if (file := files.get(path)) is None or all(one.offset != start for one in file.chunks):
        return None
    ends = (end for begin, end in _spans(file) if begin <= start < end)
    end = next(ends, None)
    return None if end is None else Load(file, start, min(end, part.piece_end(path, start, end)))


def _spans(file: CarriedFile) -> Sequence[tuple[int, int]]:
    return file.wanted or ((0, file.size_bytes),)


def _complete(loads: Sequence[Load | None], files: Iterable[CarriedFile]) -> bool:
    """Say whether loads are what travels: each ends where the next one begins, or a span does."""
    begun = {(one.file.path, one.start) for one in loads if one is not None}
    return None not in loads and all(
        (one.path, start) in begun for one in files for start, _ in _spans(one)
    )


def _filled(medium: MediumPlan, loads: Iterable[Load | None]) -> MediumPlan:
    for load in loads:
        if load is not None:
            medium.add(load)
    return medium


def _holds(medium: MediumPlan, part: MediumPart | None) -> bool:
    """Say whether a medium has room for what it is to hold, or was found to have had it."""
    had = part is not None and (part.parity or not medium.parity_percent)
    return bool(had) or medium.fits()
