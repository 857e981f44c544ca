"""What is bad on media, rebuilt from their recovery volumes while they are collected."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from llava_pack.format.chunks import FileChunk, parse_piece, within
from llava_pack.format.manifest import Manifest
from llava_pack.format.part import MediumPart
from llava_pack.format.progress import Progress, Silent
from llava_pack.target import inventory, par2, parity
from llava_pack.target.contents import FilePlace, MediaContents
from llava_pack.target.inventory import BundleListing
from llava_pack.target.need import Lack
from llava_pack.target.parity import WantedFile
from llava_pack.target.store import Store
from llava_pack.target.unlisted import part_at


def rebuilt(
    listing: BundleListing,
    contents: MediaContents,
    manifest: Manifest,
    lacks: Sequence[Lack],
    store: Store,
    scratch: Path,
    progress: Progress,
) -> Iterator[FilePlace]:
    """Yield where rebuilt files and pieces are: below `scratch`, named as on their medium.

    Nobody vouches for them any more than for the medium: whoever takes them hashes them.

    Args:
        listing: of the bundle, with all its media.
        contents: of those, with names that a medium cut.
        manifest: of the bundle.
        lacks: what is missing or bad.
        store: that has par2 itself.
        scratch: an empty folder, removed by the caller.
        progress: told the bytes.
    """
    program = stored_par2(manifest, store)
    if program is None:
        return
    for number, root in enumerate(listing.roots):
        wanted = list(_wanted(part_at(listing, root), lacks)) if parity.volumes(root) else []
        if not wanted:
            continue
        folder = scratch / str(number)
        folder.mkdir()
        progress.note(f"rebuilding {len(wanted)} files from the recovery volumes of {root}")
        here = renamed(contents, root)
        elsewhere = here | _stored(listing, root, here, lacks, store)
        made = parity.rebuild(program, root, wanted, folder, progress, elsewhere=elsewhere)
        for name, place in made.files.items():
            top = place.parents[name.count("/")]
            yield FilePlace(top, name, (parse_piece(name) or ("", 0))[1])


def renamed(contents: MediaContents, root: Path) -> dict[str, Path]:
    """Return where on one medium the files are whose names it cut, by the paths that they had."""
    return {
        path: place.path
        for path, found in contents.whole.items()
        for place in found
        if place.root == root and place.name != path
    }


def with_places(contents: MediaContents, places: Sequence[FilePlace]) -> MediaContents:
    """Return contents with more places where files and pieces are."""
    whole = {path: list(found) for path, found in contents.whole.items()}
    pieces = {path: list(found) for path, found in contents.pieces.items()}
    for place in places:
        piece = parse_piece(place.name)
        if piece is None:
            whole.setdefault(place.name, []).append(place)
        else:
            pieces.setdefault(piece[0], []).append(place)
    return replace(contents, whole=whole, pieces=pieces)


def stored_par2(manifest: Manifest, store: Store) -> Path | None:
    """Return par2 out of the store, as the bundle lists it; None where it is not there."""
    for entry in manifest.files:
        place = store.path(entry.sha256)
        if entry.path == par2.PROGRAM and place.is_file():
            promise = (entry.sha256, entry.size_bytes)
            bad = inventory.check(place.parent, place.name, promise, Silent())
            return None if bad else place
    return None


def _stored(
    listing: BundleListing,
    root: Path,
    here: Container[str],
    lacks: Sequence[Lack],
    store: Store,
) -> dict[str, Path]:
    """Return where files of a medium are in the store, or the good parts of those that are bad."""
    places = {path: store.path(digest) for path, digest in listing.sums.items()}
    places |= {lack.entry.path: store.partial(lack.entry.sha256) for lack in lacks}
    there = (path for path in places if path in here or (root / path).is_file())
    return {path: places[path] for path in there if places[path].is_file()}


def _wanted(part: MediumPart | None, lacks: Sequence[Lack]) -> Iterator[WantedFile]:
    """Yield what a medium should hold of what is lacking; all of it where nobody says what."""
    for lack in lacks:
        entry = lack.entry
        if part is None or entry.path in part.here:
            yield WantedFile(path=entry.path, size_bytes=entry.size_bytes, sha256=entry.sha256)
            continue
        for name in part.here:
            path, start = parse_piece(name) or ("", 0)
            if path == entry.path:
                end = part.piece_end(path, start, entry.size_bytes)
                chunks = within(lack.all_chunks, start, end)
                if any(one in lack.chunks for one in chunks):
                    yield _piece(name, chunks, entry.sha256)


def _piece(name: str, chunks: tuple[FileChunk, ...], sha256: str) -> WantedFile:
    size_bytes = sum(one.size_bytes for one in chunks)
    return WantedFile(path=name, size_bytes=size_bytes, sha256=sha256, chunks=chunks)
