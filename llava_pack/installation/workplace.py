"""Where bad files are rebuilt, and how they come from there into their places."""

import errno
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from llava_pack.format import files
from llava_pack.format.errors import IntegrityError, SpaceError
from llava_pack.format.progress import Silent
from llava_pack.format.text import human_bytes
from llava_pack.target import disk, inventory
from llava_pack.target.parity import WantedFile
from llava_pack.target.pieces import read_parts

SCRATCH = ".llava-pack-repair-"
_SPARE_BYTES = 24 << 20
"""For par2 itself, and what a disk needs of its own."""


def workplace(root: Path, wanted: Sequence[WantedFile], *, copies: int = 1) -> Path:
    """Return where to work: beside the folder, or among the temporary files.

    Those are chosen where only they can have links, or only they have room. From beside the folder
    a rebuilt file is renamed into its place; from another disk it is copied, which takes room on
    the medium.

    Args:
        root: the folder that is repaired.
        wanted: what is to be rebuilt.
        copies: of it that the work takes.

    Raises:
        SpaceError: no place has room, or the medium has none for a copy.
    """
    places = (root.absolute().parent, Path(tempfile.gettempdir()))
    writable = [place for place in places if os.access(place, os.W_OK)]
    linked = [place for place in writable if _holds_links(place)] or writable[:1]
    need = copies * sum(one.size_bytes for one in wanted) + _SPARE_BYTES
    roomy = [place for place in linked if disk.free_bytes(place) >= need]
    if not roomy:
        room = human_bytes(need)
        raise SpaceError(
            f"not enough disk to rebuild files: expected {room} free, got {_free(linked[0])}",
            subject=str(linked[0]),
            hint="free space there, or set TMPDIR to a folder of another disk that has "
            f"{room} free; then run the same command again",
        )
    more = _more_bytes(root, wanted)
    for place in roomy:
        if _one_disk(place, root) or disk.free_bytes(root) >= more:
            return place
    raise SpaceError(
        "not enough room on the medium for a rebuilt file: "
        f"expected {human_bytes(more)} free, got {_free(root)}",
        subject=str(root),
        hint="free space there, or copy the folder to a disk, and repair the copy",
    )


def put(rebuilt: Path, final: Path, one: WantedFile, own: Path) -> None:
    """Put a rebuilt file in its place, hashed once more where nobody else can write it.

    Args:
        rebuilt: as par2, who may be another account, made it.
        final: its place.
        one: what was promised of it.
        own: a folder of this account alone, on the disk of `rebuilt`.

    Raises:
        IntegrityError: it changed since it was rebuilt.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    mode = final.stat().st_mode & 0o777 if final.is_file() else 0o644
    taken = own / "rebuilt"
    files.move(rebuilt, taken)
    with inventory.open_file(own, taken.name) as source:
        renamed = _one_disk(own, final.parent) and _is_ours_alone(source, mode)
        if renamed:
            _check(source, one, None)
        else:
            _copy(source, final, one, mode)
    if renamed:
        try:
            files.sync(taken)
            files.move(taken, final)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with inventory.open_file(own, taken.name) as source:
                _copy(source, final, one, mode)
        files.sync(final.parent)
    taken.unlink(missing_ok=True)


def _copy(source: BinaryIO, final: Path, one: WantedFile, mode: int) -> None:
    with files.replacing(final, mode) as place:
        _check(source, one, place)


def _check(source: BinaryIO, one: WantedFile, into: BinaryIO | None) -> None:
    if (got := read_parts(source, one.sizes, into, Silent())) != one.digests:
        message = f"changed, expected sha256 {one.digests[0]}, got {got[0]}"
        raise IntegrityError(message, subject=one.path)


def _is_ours_alone(stream: BinaryIO, mode: int) -> bool:
    """Make a file this account's, and say whether nobody else has a way to write it."""
    if sys.platform == "win32":
        return True  # par2 ran as this account, and has ended
    os.fchown(stream.fileno(), os.geteuid(), os.getegid())
    os.fchmod(stream.fileno(), mode)
    return os.fstat(stream.fileno()).st_nlink == 1 and disk.nobody_writes(stream)


def _free(place: Path) -> str:
    return human_bytes(disk.free_bytes(place))


def _more_bytes(root: Path, wanted: Sequence[WantedFile]) -> int:
    """Return what copies take on the medium: missing files, and one beside its bad one."""
    there = [one.size_bytes for one in wanted if (root / one.path).is_file()]
    return sum(one.size_bytes for one in wanted) - sum(there) + max(there, default=0)


def _one_disk(place: Path, other: Path) -> bool:
    return place.stat().st_dev == other.stat().st_dev


def _holds_links(place: Path) -> bool:
    try:
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=place) as folder:
            Path(folder, "link").symlink_to("somewhere")
    except OSError:  # FAT, Windows
        return False
    return True
