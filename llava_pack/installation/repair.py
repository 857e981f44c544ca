"""A bundle, or a part of one, whose bad files are rebuilt from its recovery volumes, in place."""

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pack.crossing.parity import covered_files, par2_program
from llava_pack.format import records
from llava_pack.format.chunks import parse_piece
from llava_pack.format.digests import copy_hashing
from llava_pack.format.errors import CannotVerifyError, IntegrityError, PackError, PreflightError
from llava_pack.format.manifest import parse_manifest
from llava_pack.format.progress import Progress
from llava_pack.format.sums import MANIFEST_NAME
from llava_pack.installation.bad_files import BAD, BadFile, bad_files, need_text, piece_chunks
from llava_pack.installation.bundle_check import BundleCheck, examine
from llava_pack.installation.workplace import SCRATCH, put, workplace
from llava_pack.target import disk, inventory, par2, parity
from llava_pack.target.inventory import FileDefect
from llava_pack.target.parity import WantedFile
from llava_pack.target.rebuilding import stored_par2
from llava_pack.target.store import Store
from llava_pack.target.trust import Verdict

_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What is wrong with a folder, and what came of it."""

    bad: tuple[str, ...]
    """Files that recovery data covers and that were bad or missing."""
    mended: tuple[str, ...]
    """Those of them whose SHA-256 is right now."""
    left: tuple[FileDefect, ...]
    """Every defect that is still there."""
    lacking_bytes: int
    """Of recovery data that would have been needed for the others; 0 where that is not known."""
    volumes: int
    """How many files of recovery data there are."""
    recovery_bytes: int
    """How large they are together."""
    bring: tuple[BadFile, ...]
    """What would have to be brought for the defects that are left."""

    @property
    def bad_bytes(self) -> int:
        """How much of the files may be bad at most: chunks are good or bad as a whole."""
        return sum(one.size_bytes for one in self.bring)

    @property
    def need(self) -> str:
        """The same as text that is pasted into `carry --need -`; empty where nothing is known."""
        return need_text(self.bring)

    def facts(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return {
            "ok": not self.left,
            "volumes": self.volumes,
            "bad": list(self.bad),
            "repaired": list(self.mended),
            "lacking_bytes": self.lacking_bytes,
            "defects": records.encode(self.left),
            "bring": [one.path for one in self.left if one.problem in BAD],
            "need": self.need,
        }


def repair(found: BundleCheck, verdict: Verdict, progress: Progress, *, dry_run: bool) -> Repair:
    """Rebuild the bad files of a folder that was read, and put each that is right in its place.

    Args:
        found: of the folder.
        verdict: who vouches for the bundle; without anybody, no program of its own is run.
        progress: told the bytes.
        dry_run: write nothing, and say what is bad.

    Raises:
        CannotVerifyError: there is no par2 that can be trusted.
        PreflightError: the folder cannot be written, or nobody cannot read it.
        SpaceError: a disk has no room for the rebuilt files.
        PackError: par2 cannot be run.
    """
    root = found.listing.root
    wanted, beyond = _damage(found)
    bad = tuple(one.path for one in wanted)
    if dry_run or not wanted:
        return _told(found, bad, beyond)
    if not os.access(root, os.W_OK):
        raise PreflightError(
            "cannot be written",
            subject=str(root),
            hint="copy the folder to a disk, and repair the copy",
        )
    mended, lacking_bytes = _mend(found, wanted, verdict, progress)
    if mended:
        found = examine(found.listing, key=verdict.key, progress=progress)
        beyond = _damage(found)[1]
    return _told(found, bad, beyond, mended=mended, lacking_bytes=lacking_bytes)


def _told(
    found: BundleCheck,
    bad: tuple[str, ...],
    beyond: Sequence[FileDefect],
    *,
    mended: tuple[str, ...] = (),
    lacking_bytes: int = 0,
) -> Repair:
    left = (*(one for one in found.defects if one.path in bad), *beyond)
    volumes = parity.volumes(found.listing.root)
    return Repair(
        bad=bad,
        mended=mended,
        left=left,
        lacking_bytes=lacking_bytes,
        volumes=len(volumes),
        recovery_bytes=sum(one.stat().st_size for one in volumes),
        bring=tuple(bad_files(found, left)),
    )


def _damage(found: BundleCheck) -> tuple[list[WantedFile], list[FileDefect]]:
    """Return the files that recovery data may mend, and the defects beyond it.

    Files that are missing from a medium and not in its recovery data are on another one, and what
    is on it beside the listed files is for whoever collects them.
    """
    covered = covered_files(found.listing.root)
    wanted, beyond = [], []
    for defect in found.defects:
        path, start = parse_piece(defect.path) or (defect.path, 0)
        sha256 = found.listing.sums.get(path, "")
        size = 0 if sha256 == _EMPTY else covered.get(defect.path)
        if size is not None and path == defect.path and path in found.sizes:
            size = found.sizes[path]  # what the volumes say of it is a claim
        if size is not None and sha256 and defect.problem in BAD:
            chunks = () if path == defect.path else piece_chunks(found.manifest, path, start, size)
            known = WantedFile(path=defect.path, size_bytes=size, sha256=sha256, chunks=chunks)
            wanted.append(known)
        else:
            beyond.append(defect)
    return wanted, beyond


def _mend(
    found: BundleCheck, wanted: Sequence[WantedFile], verdict: Verdict, progress: Progress
) -> tuple[tuple[str, ...], int]:
    """Return the files that were put in place, and the recovery data lacking for the others."""
    root = found.listing.root
    trusted = found.listing.expected or verdict.trusted
    done = []
    failing = any(one.problem == "unreadable" for one in found.defects)
    place = workplace(root, wanted, copies=2 if failing else 1)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=place) as name:
        scratch = Path(name)
        work = scratch / "work"
        work.mkdir()
        program = _program(found, scratch, trusted=trusted)
        rebuilt = parity.rebuild(program, root, wanted, work, progress, elsewhere=found.renamed)
        with disk.room_on(root):
            for one in wanted:
                if one.path in rebuilt.files:
                    put(rebuilt.files[one.path], found.place(one.path), one, scratch)
                    done.append(one.path)
    return tuple(done), rebuilt.lacking_bytes


def _program(found: BundleCheck, scratch: Path, *, trusted: bool) -> Path:
    """Return par2: the laptop's, else that of the installation, else a trusted bundle's own.

    Raises:
        CannotVerifyError: there is none.
    """
    try:
        return par2_program()
    except PackError:
        pass
    if (own := _installed_par2()) is not None:
        return own
    listed = found.listing.sums.get(par2.PROGRAM)
    if listed is None:
        raise CannotVerifyError(
            "par2 is not here, and this bundle does not hold it",
            subject=par2.PROGRAM,
            hint="repair the folder on the laptop, with the llava-pack that built the bundle",
        )
    if not trusted:
        raise CannotVerifyError(
            "the par2 of a bundle runs only where a person vouches for the bundle",
            subject=par2.PROGRAM,
            hint="add --expect ID, the id from the card, or repair the folder on the laptop",
        )
    place = scratch / "par2"
    with inventory.open_file(found.listing.root, par2.PROGRAM) as source, place.open("xb") as to:
        _, got = copy_hashing(source, to)
    if got != listed:
        raise IntegrityError(
            f"changed, expected sha256 {listed}, got {got}",
            subject=par2.PROGRAM,
            hint="repair the bundle on the laptop, or bring this file again",
        )
    place.chmod(0o555)
    return place


def _installed_par2() -> Path | None:
    """Return par2 out of the store of the installation whose interpreter runs this, checked."""
    root = Path(sys.prefix).resolve().parent
    listing = root / MANIFEST_NAME
    if not listing.is_file() or len(root.parents) < 4:
        return None
    return stored_par2(parse_manifest(listing.read_bytes()), Store(root.parents[3]))
