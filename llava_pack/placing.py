"""A file in another folder without new bytes: cloned or linked where the disk can, else copied."""

import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from llava_pack.format import files
from llava_pack.format.digests import copy_hashing, sha256_stream
from llava_pack.target.disk import clone

SharedWay = Literal["cloned", "linked"]
"""A clone is a file of its own over the same blocks; a link is the same file under two names."""
PlacedWay = Literal["cloned", "linked", "copied"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedFile:
    """A file that was placed; `sha256` is of the bytes that are in the new place."""

    way: PlacedWay
    size_bytes: int
    sha256: str


def place(
    source: Path, destination: Path, on_bytes: Callable[[int], None] | None = None
) -> PlacedFile:
    """Bring a file under another name, and hash in the same pass what is there then.

    Args:
        source: a finished file of ours; where it is linked nobody may write to it any more.
        destination: does not exist; its folder does.
        on_bytes: told the size of each chunk.

    Raises:
        OSError: it cannot be read or written.
    """
    if way := share(source, destination):
        with destination.open("rb") as reader:
            digest = sha256_stream(reader, on_bytes)
        return PlacedFile(way=way, size_bytes=destination.stat().st_size, sha256=digest)
    with source.open("rb") as reader, destination.open("xb") as writer:
        size_bytes, digest = copy_hashing(reader, writer, on_bytes)
    return PlacedFile(way="copied", size_bytes=size_bytes, sha256=digest)


def share(source: Path, destination: Path) -> SharedWay | None:
    """Give a file a second name without new bytes; None, and nothing there, where that cannot be.

    A clone can be changed alone, so it comes first. What is linked becomes read-only under both
    names. Windows copies: a read-only file resists removal there, and one that is not would be
    changed under all of its names.

    Args:
        source: a finished file, not a link.
        destination: does not exist; its folder does.

    Raises:
        OSError: the source cannot be read, or the disk is full.
    """
    if sys.platform == "win32":
        return None
    with source.open("rb") as reader, destination.open("xb") as writer:
        try:
            cloned = clone(reader, writer)
        except OSError:
            destination.unlink()
            raise
    if cloned:
        return "cloned"
    destination.unlink()
    try:
        files.link(source, destination)
        destination.chmod(stat.S_IMODE(source.stat().st_mode) & 0o555)
    except OSError:  # another disk, one without links, or somebody else's file
        destination.unlink(missing_ok=True)
        return None
    return "linked"


def can_share(source: Path, destination: Path) -> bool:
    """Whether files of one folder cost no bytes in another: tried with a small one."""
    with (
        suppress(OSError),
        TemporaryDirectory(prefix=".llava-pack-", dir=source) as here,
        TemporaryDirectory(prefix=".llava-pack-", dir=destination) as there,
    ):
        Path(here, "tried").write_bytes(b"\0")
        return share(Path(here, "tried"), Path(there, "tried")) is not None
    return False
