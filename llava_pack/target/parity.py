"""Bad and missing files of a folder, rebuilt from recovery volumes, with par2 as a program apart.

What par2 reads has been verified by nobody. So it writes into a scratch folder, with as few rights
as can be, and a file is taken from there only if its SHA-256 is the one that was promised.
"""

import os
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_pack.format.chunks import FileChunk
from llava_pack.format.errors import SpaceError
from llava_pack.format.progress import Progress, Silent
from llava_pack.format.sums import PARITY_FOLDER, is_parity
from llava_pack.format.text import human_bytes
from llava_pack.target import disk, inventory, par2
from llava_pack.target.pieces import read_parts

_MEMORY_MIB = 64
"""What par2 may hold of its work; reading takes it two blocks more."""
_NO_VOLUMES = 4
_UNREADABLE = 6
"""What it exits with where a volume leads to nothing, or a file fails while it is read.
Source: par2cmdline, libpar2.h, `Result`."""
_LEAST_HOLE_BYTES = 4096
_MOST_HOLE_BYTES = 1 << 20
_SPARE_BYTES = 16 << 20
_BLOCK = re.compile(r"The block size used was (\d+) bytes")
_LACKING = re.compile(r"You need (\d+) more recovery block")


@dataclass(frozen=True, kw_only=True)
class WantedFile:
    """A file to be rebuilt: its path below the folder, and what was promised of it."""

    path: str
    size_bytes: int
    sha256: str
    chunks: tuple[FileChunk, ...] = ()
    """Of a piece, which has no digest of its own: `sha256` is that of the whole file then."""

    @property
    def sizes(self) -> list[int]:
        """The sizes in bytes of what `digests` are of."""
        return [one.size_bytes for one in self.chunks] or [self.size_bytes]

    @property
    def digests(self) -> list[str]:
        """What was promised: of its chunks where there are any, else of the file."""
        return [one.sha256 for one in self.chunks] or [self.sha256]


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """What came of it."""

    files: Mapping[str, Path]
    """Those whose SHA-256 is right, by path, in the scratch folder."""
    lacking_bytes: int
    """Of recovery data that more would be needed; 0 where that was not what failed."""
    said: str
    """The last lines of par2."""


def volumes(folder: Path) -> list[Path]:
    """Return the recovery volumes of a folder, plain files with the names that ours have."""
    try:
        names = sorted(f"{PARITY_FOLDER}/{one.name}" for one in (folder / PARITY_FOLDER).iterdir())
    except OSError:
        return []
    return [folder / name for name in names if is_parity(name) and _is_plain(folder / name)]


def rebuild(
    program: Path,
    folder: Path,
    wanted: Sequence[WantedFile],
    scratch: Path,
    progress: Progress,
    *,
    elsewhere: Mapping[str, Path] | None = None,
) -> Rebuilt:
    """Rebuild files of a folder, which is only read: good and bad files of it lead to the rest.

    Args:
        program: par2, verified.
        folder: with the recovery volumes, and its files at the paths that they had then.
        wanted: what is bad or missing in it.
        scratch: an empty folder on a disk with room for what is wanted, removed by the caller.
        progress: told the bytes.
        elsewhere: where files of the folder are that are not in it, or read faster, by path.

    Raises:
        SpaceError: the disk of `scratch` has no room.
        PreflightError: nobody, whom root's par2 is run as, cannot read a file.
        InstallError: par2 cannot be started, or takes too long.
    """
    sizes = sum(one.size_bytes for one in wanted)
    _check_room(scratch, sizes)
    place = scratch.resolve() / "files"
    place.mkdir()
    sources = {**_plain_files(folder), **(elsewhere or {})}
    total = sum(source.stat().st_size for source in sources.values()) + sizes
    largest = max((one.size_bytes for one in wanted), default=0)
    with par2.Reach(len(sources)) as reach:
        _lay(place, {path: reach.of(source) for path, source in sources.items()}, wanted)
        options = [f"-B{reach.here(place)}", f"-m{_MEMORY_MIB}", "-t2", "-T1", "--"]
        command = [reach.of(program), "repair", *options]
        limits = {"cwd": place, "pass_fds": reach.opened, **par2.confined(place, largest, total)}
        beside = [Path(reach.of(one.parent), one.name) for one in volumes(folder)]

        def repair() -> tuple[int, str]:
            said = ""
            for volume in beside:  # each repeats what leads the others
                code, said = par2.run([*command, str(volume)], total, progress, **limits)
                if code != _NO_VOLUMES:
                    return code, said
            return _NO_VOLUMES, said

        code, said = repair()
        if code == _UNREADABLE:
            _check_room(scratch, 2 * sizes)
            for one in wanted:
                if one.path in sources:
                    _salvage(sources[one.path], place / one.path, _number(_BLOCK, said))
            said = repair()[1]
    right = {one.path: place / one.path for one in wanted if _is_right(place, one)}
    lacking_bytes = _number(_LACKING, said) * _number(_BLOCK, said)
    return Rebuilt(files=right, lacking_bytes=lacking_bytes, said=said)


def _check_room(scratch: Path, size_bytes: int) -> None:
    need = size_bytes + _SPARE_BYTES
    if (free := shutil.disk_usage(scratch).free) < need:
        raise SpaceError(
            f"not enough disk to rebuild files: expected {human_bytes(need)} free, "
            f"got {human_bytes(free)}",
            subject=str(scratch),
            hint="free space there, then run the same command again",
        )


def _number(pattern: re.Pattern[str], said: str) -> int:
    found = pattern.search(said)
    return int(found[1]) if found else 0


def _salvage(source: Path, place: Path, block_bytes: int) -> None:
    """Copy what can be read of a file, and leave holes: par2 gives up where a medium fails."""
    step = min(max(block_bytes, _LEAST_HOLE_BYTES), _MOST_HOLE_BYTES)
    place.unlink()
    with inventory.open_file(source.parent, source.name) as stream, place.open("xb") as copy:
        size = os.fstat(stream.fileno()).st_size
        for offset in range(0, size, step):
            stream.seek(offset)
            copy.seek(offset)
            try:
                data = inventory.Medium(stream).read(step)
            except inventory.UnreadableError:
                continue
            copy.write(data)
        copy.truncate(size)


def _plain_files(folder: Path) -> dict[str, Path]:
    """Return the plain files of a folder by path, no links followed; the volumes are none."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            source = Path(root, name)
            path = source.relative_to(folder).as_posix()
            if not path.startswith(f"{PARITY_FOLDER}/") and _is_plain(source):
                found[path] = source
    return found


def _is_plain(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _lay(place: Path, sources: Mapping[str, str], wanted: Sequence[WantedFile]) -> None:
    """Have each path below `place` be a file: a link where it can, which par2 never writes."""
    for path, source in sources.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        if not _links(source, place / path):
            disk.link_or_copy(Path(source), place / path)
    for one in wanted:
        (place / one.path).parent.mkdir(parents=True, exist_ok=True)
        if not one.size_bytes:  # par2 knows no empty files
            (place / one.path).unlink(missing_ok=True)
            (place / one.path).touch()


def _links(source: str, place: Path) -> bool:
    try:
        place.symlink_to(source)
    except OSError:  # FAT, and Windows for most accounts
        return False
    return place.is_file()


def _is_right(place: Path, one: WantedFile) -> bool:
    """Say whether a rebuilt file is the promised one, and really where it seems to be."""
    path = place / one.path
    if path.resolve() != path or not path.is_file() or path.stat().st_size != one.size_bytes:
        return False
    with inventory.open_file(place, one.path) as stream:
        return read_parts(stream, one.sizes, None, Silent()) == one.digests
