"""The media of a bundle, written: each file is hashed on its way, and nothing else lies there."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pack.client.sending.cargo import damage
from llava_pack.crossing.medium_folder import explained
from llava_pack.crossing.parity import made_volumes, protect
from llava_pack.crossing.plan import CarryPlan, Load
from llava_pack.crossing.request import CarrySource
from llava_pack.format import files
from llava_pack.format.errors import UsageError
from llava_pack.format.part import PART_NAME, render_part
from llava_pack.format.progress import Progress, Silent
from llava_pack.format.sums import MANIFEST_NAME, PARITY_FOLDER, SUMS_NAME, is_parity
from llava_pack.placing import share
from llava_pack.target import disk, parity
from llava_pack.target.contents import is_litter
from llava_pack.target.pieces import read_parts

_READER = "installer/llava_pack/format/part.py"
"""A bundle that lists it has an installer that knows PART.json, pieces, volumes and --collect."""


@dataclass(frozen=True, kw_only=True)
class WrittenMedium:
    """One medium, as it was written."""

    folder: Path
    medium: int
    media: int
    files: int
    size_bytes: int
    """Recovery volumes left aside."""
    parity_bytes: int
    """Of recovery volumes."""
    copied_bytes: int
    """What was written; the rest was there, or shares the blocks of the bundle."""

    def facts(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return {**vars(self), "folder": str(self.folder)}


def write_medium(
    source: CarrySource, plan: CarryPlan, number: int, folder: Path, progress: Progress
) -> WrittenMedium:
    """Write one medium: what is there and good stays, and the same command resumes.

    PART.json comes first: until everything is there, `verify` says what is missing. A medium that
    holds the whole bundle is that bundle, and has none.

    Args:
        source: the bundle.
        plan: of all media.
        number: of this one, counted from 1.
        folder: of the bundle on the medium.
        progress: told the bytes.

    Raises:
        IntegrityError: a file of the bundle is damaged.
        SpaceError: the medium is full.
        FetchError: it cannot be written, or the bundle cannot be read.
    """
    medium = plan.media[number - 1]
    progress.start(f"writing medium {number} of {len(plan.media)}", medium.content_bytes)
    copied = 0
    with explained(folder), disk.room_on(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if _changed(folder / SUMS_NAME, source.head[SUMS_NAME]):
            disk.remove_tree(folder / PARITY_FOLDER)  # it is of other files
        _clear(source, plan, number, folder)
        volumes = [f"{PARITY_FOLDER}/{one.name}" for one in parity.volumes(folder)]
        head = source.head
        if not holds_all(source, plan):
            head = {PART_NAME: render_part(plan.part(number, volumes)), **head}
        for name, data in head.items():
            _write_changed(folder / name, data)
            progress.advance(len(data))
        for load in medium.loads:
            if not _is_there(folder, load, progress):
                copied += _bring(source.root, folder, load, progress)
        _flush(folder)
        progress.done()
        made = _protected(folder, plan, number, progress)
        if PART_NAME in head:
            _write_changed(folder / PART_NAME, render_part(plan.part(number, made)))
        _flush(folder)
    return WrittenMedium(
        folder=folder,
        medium=number,
        media=len(plan.media),
        files=len(medium.loads) + len(head),
        size_bytes=medium.content_bytes,
        parity_bytes=sum((folder / name).stat().st_size for name in made),
        copied_bytes=copied,
    )


def holds_all(source: CarrySource, plan: CarryPlan) -> bool:
    """Say whether one medium holds the whole bundle."""
    names = {load.name for medium in plan.media for load in medium.loads}
    return len(plan.media) == 1 and names == {one.path for one in source.files()}


def check_installer(source: CarrySource, plan: CarryPlan) -> None:
    """Refuse media that the bundle's own installer would refuse: an earlier version's knows none.

    Raises:
        UsageError: it is to be divided or only a part of it is to travel, or with recovery volumes.
    """
    if any(one.path == _READER for one in source.manifest.files):
        return
    if plan.parity_percent or (plan.media and not holds_all(source, plan)):
        raise UsageError(
            "an earlier version built this bundle, and its installer takes it whole, from one "
            "medium, without recovery volumes",
            subject=str(source.root),
            hint="build it again with this version, or carry it with one --to alone",
        )


def _clear(source: CarrySource, plan: CarryPlan, number: int, folder: Path) -> None:
    """Remove what an earlier run wrote and this medium is not to hold."""
    wanted = {load.name for load in plan.media[number - 1].loads} | source.head.keys()
    if not holds_all(source, plan):
        wanted.add(PART_NAME)
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(place, name)
            files.clear(path)
            relative = path.relative_to(folder).as_posix()
            stays = relative in wanted or is_parity(relative) or is_litter(relative)
            if not stays:
                path.unlink(missing_ok=True)
        if place != str(folder) and not any(Path(place).iterdir()):
            Path(place).rmdir()


def _protected(folder: Path, plan: CarryPlan, number: int, progress: Progress) -> Sequence[str]:
    """Have recovery volumes for what a medium holds, and return their paths."""
    if not plan.parity_percent:
        disk.remove_tree(folder / PARITY_FOLDER)
        return ()
    names = [MANIFEST_NAME, *(load.name for load in plan.media[number - 1].loads)]
    held = made_volumes(folder, names, plan.parity_percent)
    return held or protect(folder, names, plan.parity_percent, progress)


def _flush(folder: Path) -> None:
    """Have everything on the medium before it is said to be there; a person may pull it now."""
    if sys.platform == "linux":
        disk.sync_all(folder)
        return
    for place, _, names in os.walk(folder):
        for name in names:
            files.sync(Path(place, name))
        files.sync(Path(place))


def _changed(path: Path, data: bytes) -> bool:
    return not path.is_file() or path.read_bytes() != data


def _write_changed(path: Path, data: bytes) -> None:
    if _changed(path, data):
        files.write(path, data, durable=False)


def _is_there(folder: Path, load: Load, progress: Progress) -> bool:
    path = folder / load.name
    if not path.is_file() or path.stat().st_size != load.size_bytes:
        return False
    with path.open("rb") as stream:
        good = read_parts(stream, load.parts, None, Silent()) == load.digests
    if good:
        progress.advance(load.size_bytes)
    return good


def _bring(root: Path, folder: Path, load: Load, progress: Progress) -> int:
    """Bring a file or piece, and return how many bytes were written for it.

    Raises:
        IntegrityError: its bytes are not those of the manifest; nothing of it stays.
    """
    source = root / load.file.path
    target = folder / load.name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if load.end is None and share(source, target):
        with target.open("rb") as stream:
            digests = read_parts(stream, load.parts, None, progress)
        if digests != load.digests:
            target.unlink()
            raise damage(load.file.path)
        return 0
    with source.open("rb") as stream, files.replacing(target, durable=False) as out:
        stream.seek(load.start)
        if read_parts(stream, load.parts, out, progress) != load.digests:
            raise damage(load.file.path)
    return load.size_bytes
