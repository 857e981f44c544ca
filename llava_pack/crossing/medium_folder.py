"""Whether a folder may become a medium: what lies there, and how much room there is."""

import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llava_pack.crossing.media import BLOCK_BYTES, MediumSize
from llava_pack.crossing.plan import CarryPlan, MediumPlan
from llava_pack.crossing.request import CarrySource
from llava_pack.format.errors import (
    FetchError,
    IntegrityError,
    SpaceError,
    UsageError,
    reason_of,
)
from llava_pack.format.files import is_leftover
from llava_pack.format.part import PART_NAME
from llava_pack.format.sums import MANIFEST_NAME, PARITY_FOLDER, SUMS_NAME
from llava_pack.format.text import human_bytes
from llava_pack.target import disk, inventory
from llava_pack.target.contents import is_litter, recognised, survey

if sys.platform == "win32":
    from llava_pack.format import windows

_OTHER = "choose another --to"
_LESS = "free some space, or divide it: --media SIZE, and --medium 1 for the first one"
_LESS_PARITY = (
    "free some space, take less recovery data, or divide it: --media SIZE, and --medium 1 for the "
    "first one"
)


def check_mounted(place: Path) -> None:
    """Refuse a place where nothing is, as where a medium is not mounted.

    Raises:
        UsageError: neither it nor the folder above exists, or it is a device.
    """
    real = place.absolute()
    if not place.exists() and not place.absolute().parent.is_dir():
        message = "neither it nor the folder above exists"
        raise UsageError(message, subject=str(place), hint="is the medium mounted?")
    if real.is_relative_to("/dev") and not real.is_relative_to("/dev/shm"):  # noqa: S108
        hint = "mount it, and pass the folder where it is mounted"
        raise UsageError("is a device, expected a folder", subject=str(place), hint=hint)


def check_folder(
    source: CarrySource, plan: CarryPlan, number: int, folder: Path, *, replace: bool
) -> None:
    """Refuse to write where that would cost anything that this medium is not to hold.

    Args:
        source: the bundle.
        plan: of all media.
        number: of this one, counted from 1.
        folder: of the bundle on the medium.
        replace: another bundle, or another part of this one, may go.

    Raises:
        UsageError: the folder is the bundle itself, holds something else, or a part of a bundle
            that would go.
        FetchError: it cannot be read.
    """
    with explained(folder):
        real = folder.resolve()
        if real.is_relative_to(source.root.resolve()) or source.root.resolve().is_relative_to(real):
            raise UsageError("is the bundle itself", subject=str(folder), hint=_OTHER)
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise UsageError("is not a folder", subject=str(folder), hint=_OTHER)
        if folder.exists():
            _check_held(source, plan, number, folder, replace=replace)


def _check_held(
    source: CarrySource, plan: CarryPlan, number: int, folder: Path, *, replace: bool
) -> None:
    heads = source.head.keys() | {PART_NAME}
    lying = (path for path in folder.rglob("*") if not path.is_dir())
    names = {path.relative_to(folder).as_posix() for path in lying}
    own = {name for name in names if _is_own(name) or is_litter(name)}
    if names <= heads | own and not names >= {SUMS_NAME, MANIFEST_NAME}:
        return  # nothing, or what a run wrote that was stopped early
    try:
        listing = inventory.read_listing(folder, expect=None)
        manifest, _ = inventory.read_manifest(listing)
        found = recognised(survey(listing), manifest)
    except (IntegrityError, UsageError) as error:
        raise UsageError(
            "exists and is not a bundle, so it is left alone",
            subject=str(folder),
            hint="choose another --to, or empty the folder",
        ) from error
    strange = [one for one in found.strange if not _is_own(one.path)]
    if strange:
        raise UsageError(f"{strange[0]}", subject=str(folder), hint=_OTHER)
    if replace:
        return
    if listing.bundle_id != source.listing.bundle_id:
        message = f"holds bundle {listing.bundle_id[:12]} of {manifest.recipe.name}"
        raise UsageError(
            message, subject=str(folder), hint="choose another --to, or pass --replace"
        )
    wanted = heads | {load.name for load in plan.media[number - 1].loads}
    if gone := sorted(names - own - wanted):
        message = f"holds {len(gone)} files of the bundle that would go, such as {gone[0]}"
        raise UsageError(
            message, subject=str(folder), hint="choose another --to, or pass --replace"
        )


def _is_own(name: str) -> bool:
    """Say whether a name is of recovery volumes, which are made anew, or of a file half written."""
    return name.startswith((f"{PARITY_FOLDER}/", f"{PARITY_FOLDER}.partial")) or is_leftover(name)


def check_room(source: CarrySource, media: Sequence[tuple[Path, MediumPlan]]) -> None:
    """Hold media against the disks that they are written to, before anything is written.

    Args:
        source: the bundle; its own disk shares the blocks of whole files.
        media: each with its folder.

    Raises:
        SpaceError: a disk has no room for all that goes on it; what is there already counts.
    """
    own = source.root.stat().st_dev
    disks: dict[int, list[tuple[Path, MediumPlan]]] = {}
    for folder, medium in media:
        with explained(folder):
            disks.setdefault(disk.existing(folder).stat().st_dev, []).append((folder, medium))
    for device, each in disks.items():
        folder, first = each[0]
        shared = device == own and sys.platform != "win32"
        with explained(folder):
            block = block_bytes(folder)
            more = sum(_more_bytes(one, medium, block, shared=shared) for one, medium in each)
            usage = shutil.disk_usage(disk.existing(folder))
        if usage.total and more > usage.free:  # some drivers do not know either
            raise SpaceError(
                f"{human_bytes(more)} are to be written, {human_bytes(usage.free)} are free",
                subject=str(folder),
                hint=_LESS_PARITY if first.parity_percent else _LESS,
            )


def _more_bytes(folder: Path, medium: MediumPlan, block: int, *, shared: bool) -> int:
    """Return how much less a disk has free once a medium is written, and what it replaces is gone.

    Args:
        folder: of the bundle on the medium.
        medium: what it is to hold.
        block: in how many bytes the disk counts.
        shared: whole files take nothing.
    """
    held = {path.relative_to(folder).as_posix(): path.lstat().st_size for path in _files(folder)}
    there = {load.name for load in medium.loads if held.get(load.name) == load.size_bytes}
    linked = {load.name for load in medium.loads if shared and load.end is None}
    new = medium.taken_bytes(block, without=there | linked)
    return new - held_bytes(folder, block) + sum(_blocks(held[name], block) for name in there)


def room_of(place: Path, name: str) -> MediumSize:
    """Return how much of a bundle a medium can hold; what it holds of it already counts as room.

    Args:
        place: where it is mounted.
        name: of the bundle's folder on it, or of the folders if there are several media.
    """
    with explained(place):
        block = block_bytes(place)
        held = sum(held_bytes(one, block) for one in own_folders(place, name))
        return MediumSize(room_bytes=disk.free_bytes(place) + held, block_bytes=block)


def own_folders(place: Path, name: str) -> list[Path]:
    """Return the folders that are named as those of a bundle on media."""
    own = re.compile(rf"{re.escape(name)}(-\d+of\d+)?")
    return sorted(one for one in place.glob("*") if own.fullmatch(one.name))


def block_bytes(folder: Path) -> int:
    """Return in how many bytes the disk counts on which a folder is, or would be."""
    there = disk.existing(folder.absolute())
    if sys.platform == "win32":
        return windows.cluster_bytes(there)
    return os.statvfs(there).f_frsize or BLOCK_BYTES


def held_bytes(folder: Path, block: int) -> int:
    """Return how much what lies in a folder takes on a disk that counts in blocks."""
    if not folder.is_dir():
        return 0
    folders = 1 + sum(path.is_dir() for path in folder.rglob("*"))
    sizes = (path.lstat().st_size for path in _files(folder))
    return folders * block + sum(_blocks(size, block) for size in sizes)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _blocks(size_bytes: int, block: int) -> int:
    return MediumSize(room_bytes=0, block_bytes=block).taken(size_bytes)


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what a medium refuses into an error that says so."""
    try:
        yield
    except OSError as error:
        raise FetchError(
            f"{reason_of(error)}",
            subject=str(error.filename or folder),
            hint="look at the medium, then run the same command again: it resumes",
        ) from error
