"""What has to be brought for files that are bad: of large ones only the chunks that are."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_pack.format.chunks import FileChunk, parse_piece, within
from llava_pack.format.digest_list import short_form
from llava_pack.format.manifest import Manifest
from llava_pack.format.sums import MANIFEST_NAME
from llava_pack.installation.bundle_check import BundleCheck
from llava_pack.target import inventory
from llava_pack.target.inventory import FileDefect
from llava_pack.target.pieces import holds


@dataclass(frozen=True)
class BadFile:
    """A bad or missing file or piece: digests to ask for, and how many bytes they are of."""

    path: str
    digests: tuple[str, ...]
    size_bytes: int


BAD = frozenset({"changed", "missing", "size", "unreadable"})
"""What is wrong with a file that is to be brought again, or rebuilt."""


def need_text(bad: Iterable[BadFile]) -> str:
    """Return the short form that is pasted into `carry --need -`; empty for nothing."""
    digests = {digest for one in bad for digest in one.digests}
    return short_form("need", digests) if digests else ""


def bad_files(found: BundleCheck, defects: Iterable[FileDefect]) -> Iterator[BadFile]:
    """Yield what has to be brought for bad files; their chunks are read again.

    The manifest is none of it: every medium that is written has it.

    Args:
        found: of the folder.
        defects: of it; those that are no files of the bundle are passed over.
    """
    for name in (one.path for one in defects if one.problem in BAD):
        path, start = parse_piece(name) or (name, 0)
        if path in found.listing.sums and path != MANIFEST_NAME:
            size = found.sizes.get(path, 0)
            chunks = piece_chunks(found.manifest, path, start, size)
            if name != path and found.part is not None:
                end = found.part.piece_end(path, start, size)
                chunks = tuple(one for one in chunks if one.end <= end)
            bad = _bad(found.place(name), start, chunks)
            if bad and not (name == path and len(bad) == len(chunks)):
                yield BadFile(name, tuple(one.sha256 for one in bad), _bytes(bad))
            else:
                yield BadFile(name, (found.listing.sums[path],), size)


def piece_chunks(
    manifest: Manifest | None, path: str, start: int, size_bytes: int
) -> tuple[FileChunk, ...]:
    """Return the chunks of a file that lie in a span of it; none where it has one alone."""
    entry = next((one for one in (manifest.files if manifest else ()) if one.path == path), None)
    if manifest is None or entry is None:
        return ()
    chunks = manifest.chunks.spans(entry.sha256, entry.size_bytes)
    return within(chunks, start, start + size_bytes)


def _bytes(chunks: Sequence[FileChunk]) -> int:
    return sum(one.size_bytes for one in chunks)


def _bad(place: Path, start: int, chunks: Sequence[FileChunk]) -> list[FileChunk]:
    """Return the chunks that a file, which begins at an offset, does not hold."""
    try:
        stream = inventory.open_file(place.parent, place.name)
    except OSError:
        return list(chunks)
    with stream:
        return [one for one in chunks if not holds(stream, one.offset - start, one)]
