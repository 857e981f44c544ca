"""A large file put together from whatever parts of it are good, each held against its digest."""

import errno
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from llava_pack.format import files
from llava_pack.format.chunks import FileChunk, runs, within
from llava_pack.format.digests import READ_BYTES, Readable
from llava_pack.format.progress import Progress, Silent
from llava_pack.target import disk, inventory
from llava_pack.target.contents import FilePlace
from llava_pack.target.inventory import FileDefect


def gather(
    into: Path, chunks: Sequence[FileChunk], places: Iterable[FilePlace], progress: Progress
) -> tuple[tuple[FileChunk, ...], FileDefect | None]:
    """Write every chunk that is good somewhere into a file, and return those that are missing.

    With them comes the first thing that is wrong with one of the places, if it could have helped.

    What an earlier run wrote there is read again and kept where it is right, so a run may be killed
    at any time; the file is as long as the whole, with holes.

    Args:
        into: the file, made where there is none.
        chunks: all of the whole.
        places: files that have some or all of it; one that cannot be read is passed over, from one
            chunk to the next.
        progress: told the bytes of each good chunk.

    Raises:
        OSError: `into` cannot be written.
    """
    descriptor = os.open(into, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | files.UNFOLLOWED, 0o644)
    with os.fdopen(descriptor, "r+b", buffering=0) as whole:
        missing = [chunk for chunk in chunks if not _is_there(whole, chunk)]
        progress.advance(chunks[-1].end - sum(chunk.size_bytes for chunk in missing))
        whole.truncate(chunks[-1].end)
        wrong: dict[FileChunk, FileDefect] = {}
        for place in places:
            if missing:
                missing = _take(whole, missing, place, wrong, progress)
        os.fsync(descriptor)
    return tuple(missing), next((wrong[one] for one in missing if one in wrong), None)


def _is_there(whole: BinaryIO, chunk: FileChunk) -> bool:
    try:  # a hole is not worth hashing
        if os.lseek(whole.fileno(), chunk.offset, os.SEEK_DATA) >= chunk.end:
            return False
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise
    return holds(whole, chunk.offset, chunk)


def holds(stream: BinaryIO, start: int, chunk: FileChunk) -> bool:
    """Say whether a file can be read and has a chunk at an offset."""
    try:
        return _copied(stream, start, chunk, None)
    except inventory.UnreadableError:
        return False


def _take(
    whole: BinaryIO,
    missing: Iterable[FileChunk],
    place: FilePlace,
    wrong: dict[FileChunk, FileDefect],
    progress: Progress,
) -> list[FileChunk]:
    """Take the missing chunks that a file has, and return the others; `wrong` hears why."""
    try:
        source = inventory.open_file(place.root, place.name)
    except OSError as error:
        rest = list(missing)
        defect = inventory.unreadable(place.name, error)
        wrong.update({chunk: defect for chunk in rest if chunk.offset == place.offset})
        return rest
    rest = []
    with source:
        end = place.offset + os.fstat(source.fileno()).st_size
        for chunk in missing:
            if place.offset <= chunk.offset < max(end, place.offset + 1):
                found = _taken(source, chunk, place, end, whole)
                if found is None:
                    progress.advance(chunk.size_bytes)
                    continue
                wrong.setdefault(chunk, found)
            rest.append(chunk)
    return rest


def _taken(
    source: BinaryIO, chunk: FileChunk, place: FilePlace, end: int, whole: BinaryIO
) -> FileDefect | None:
    """Copy a chunk, and return what is wrong with it."""
    if chunk.end > end:
        return FileDefect(place.name, "size", "whole chunks", f"{end - place.offset} bytes")
    try:
        right = _copied(source, chunk.offset - place.offset, chunk, whole)
    except inventory.UnreadableError as failed:
        return inventory.unreadable(place.name, failed.error)
    return None if right else _other_chunk(place, chunk)


def _other_chunk(place: FilePlace, chunk: FileChunk) -> FileDefect:
    at = f"another one at {chunk.offset - place.offset}"
    return FileDefect(place.name, "changed", f"sha256 {chunk.sha256}", at)


def read_parts(
    stream: Readable, sizes: Iterable[int], into: BinaryIO | None, progress: Progress
) -> list[str]:
    """Read parts that follow each other, copy them, and return the digest of each.

    Args:
        stream: of the file; what comes after the parts is not read.
        sizes: of each part in bytes.
        into: gets what was hashed; None to hash alone.
        progress: told the bytes.
    """
    found = []
    for size_bytes in sizes:
        digest = hashlib.sha256()
        left = size_bytes
        while left and (data := stream.read(min(left, READ_BYTES))):
            digest.update(data)
            left -= len(data)
            if into is not None:
                disk.write_all(into, data)
            progress.advance(len(data))
        found.append(digest.hexdigest())
    return found


def check_piece(
    place: FilePlace, chunks: Sequence[FileChunk], progress: Progress
) -> FileDefect | None:
    """Read a piece once, and return what is wrong with it.

    Args:
        place: of the piece.
        chunks: all of the whole file.
        progress: told the bytes of each good chunk.
    """
    try:
        with inventory.open_file(place.root, place.name) as source:
            end = place.offset + os.fstat(source.fileno()).st_size
            inside = within(chunks, place.offset, end)
            if [place.offset, end] != [at for span in runs(inside) for at in span]:
                return FileDefect(place.name, "size", "whole chunks", f"{end - place.offset} bytes")
            for chunk in inside:
                if not _copied(source, chunk.offset - place.offset, chunk, None):
                    return _other_chunk(place, chunk)
                progress.advance(chunk.size_bytes)
    except OSError as error:
        return inventory.unreadable(place.name, error)
    except inventory.UnreadableError as failed:
        return inventory.unreadable(place.name, failed.error)
    return None


def _copied(source: BinaryIO, start: int, chunk: FileChunk, into: BinaryIO | None) -> bool:
    """Copy a chunk from an offset in its source, and say whether its digest is right."""
    source.seek(start)
    if into is not None:
        into.seek(chunk.offset)
    sizes = [chunk.size_bytes]
    return read_parts(inventory.Medium(source), sizes, into, Silent()) == [chunk.sha256]
