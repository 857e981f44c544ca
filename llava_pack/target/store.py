"""The store of a prefix: files by digest, each hashed as it was placed, read-only ever after."""

import os
import stat
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal

from llava_pack.format import files
from llava_pack.format.digests import copy_hashing
from llava_pack.format.manifest import FileEntry
from llava_pack.format.progress import Progress
from llava_pack.target import disk, inventory
from llava_pack.target.inventory import COPY_AGAIN, FileDefect

Way = Literal["stored", "moved", "linked", "cloned", "copied", "fetched"]
"""How a file came into the store; only one that was copied takes its bytes once more."""
_MOVABLE = ("model/", "wheels/")
"""What --consume takes off a medium; the rest is needed to start install.sh from it again."""


_FETCH_AGAIN = "the bad file is removed: add --index URL to the same command, and it is fetched"


class Store:
    """Files of all bundles that were installed under one prefix.

    Args:
        prefix: of the installation.
    """

    def __init__(self, prefix: Path) -> None:
        self.root = prefix / "store"
        self._objects = self.root / "sha256"
        self.incoming = self.root / "incoming"

    def path(self, sha256: str) -> Path:
        """Return where the file with this digest is, or would be."""
        return self._objects / sha256[:2] / sha256

    def foresee(self, bundle: Path, entries: Iterable[FileEntry], *, consume: bool) -> Counter[str]:
        """Return by which way how many bytes would be placed; a clone is foreseen as a copy."""
        sizes = Counter[str]()
        for entry in _unique(entries):
            way: Way = "copied" if entry.carried else "fetched"
            if self.path(entry.sha256).is_file():
                way = "stored"
            elif (bundle / entry.path).exists():
                way = self._way(bundle, entry, consume=consume)
            sizes[way] += entry.size_bytes
        return sizes

    def place(
        self, bundle: Path, entries: Iterable[FileEntry], progress: Progress, *, consume: bool
    ) -> Counter[str]:
        """Bring every file of a bundle into the store; return by which way how many bytes came.

        A file that is there already is read there, not on the medium, and replaced if it went bad.

        Raises:
            IntegrityError: naming every file whose bytes are not what the manifest says.
            SpaceError: the disk is full; what was placed stays for the next run.
        """
        unique = _unique(entries)
        for folder in (self.incoming, *(self.path(entry.sha256).parent for entry in unique)):
            folder.mkdir(parents=True, exist_ok=True)
        progress.start("placing files", sum(entry.size_bytes for entry in unique))

        def place(entry: FileEntry) -> Way | FileDefect:
            return self._place(bundle, entry, progress, consume=consume)

        with disk.room_on(self.root), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            found = list(pool.map(place, unique))
        progress.done()
        defects = sorted(
            (one for one in found if isinstance(one, FileDefect)), key=lambda d: d.path
        )
        if defects:
            absent = {entry.path for entry in unique if not entry.carried}
            hint = _FETCH_AGAIN if any(one.path in absent for one in defects) else COPY_AGAIN
            raise inventory.refusal(tuple(defects), of=len(unique), hint=hint)
        sizes = Counter[str]()
        for entry, way in zip(unique, found, strict=True):
            if not isinstance(way, FileDefect):
                sizes[way] += entry.size_bytes
        return sizes

    def _way(self, bundle: Path, entry: FileEntry, *, consume: bool) -> Way:
        """Return how a file can be placed: without writing its bytes, where that is safe.

        Root links nothing, for it could be another account's file; what it moves, it first owns.
        """
        top = bundle.resolve()
        root = os.geteuid() == 0
        source = top / entry.path
        if source.lstat().st_dev != disk.existing(self.incoming).stat().st_dev:
            return "copied"
        if not root and not disk.only_ours(source, top):
            return "copied"
        if consume and entry.path.startswith(_MOVABLE):
            return "moved"
        return "copied" if root else "linked"

    def _place(
        self, bundle: Path, entry: FileEntry, progress: Progress, *, consume: bool
    ) -> Way | FileDefect:
        final = self.path(entry.sha256)
        source = bundle / entry.path
        stored = str(final.relative_to(self._objects))
        promise = (entry.sha256, entry.size_bytes)
        way: Way | FileDefect = "stored"
        if not final.exists() or inventory.check(self._objects, stored, promise, progress):
            if not entry.carried:
                final.unlink(missing_ok=True)  # so that the next run fetches it
                return FileDefect(entry.path, "changed", f"sha256 {entry.sha256}", "another file")
            way = self._take(bundle, entry, progress, consume=consume)
        elif final.stat().st_mode & 0o333 != _mode(entry) & 0o333:
            final.chmod(_mode(entry))
        if consume and final.exists() and source.exists() and source.samefile(final):
            source.unlink()
        return way

    def _take(
        self, bundle: Path, entry: FileEntry, progress: Progress, *, consume: bool
    ) -> Way | FileDefect:
        """Place one file: read once, through the descriptor of what will be used."""
        incoming = self.incoming / entry.sha256
        incoming.unlink(missing_ok=True)
        try:
            source = inventory.open_file(bundle, entry.path)
            way = self._way(bundle, entry, consume=consume)
        except OSError as error:
            return inventory.unreadable(entry.path, error)
        try:
            with source:
                before = os.fstat(source.fileno())
                if way != "copied" and _link(source, incoming, _mode(entry)):
                    defect = _differs(entry, source, None, progress)
                else:
                    with incoming.open("x+b") as copy:
                        way = "cloned" if disk.clone(source, copy) else "copied"
                        read, into = (copy, None) if way == "cloned" else (source, copy)
                        defect = _differs(entry, read, into, progress)
                        os.fchmod(copy.fileno(), _mode(entry))
                if defect is None:
                    files.sync(incoming)
                    incoming.rename(self.path(entry.sha256))
                    return way
                if way in {"moved", "linked"}:
                    _restore(source, before)
                return defect
        except inventory.UnreadableError as failed:
            return inventory.unreadable(entry.path, failed.error)
        finally:
            incoming.unlink(missing_ok=True)

    def sweep(self, keep: Iterable[str]) -> int:
        """Remove every file that is not among the digests `keep`, and return the bytes freed."""
        kept = set(keep)
        freed = 0
        for path in self._objects.glob("*/*"):
            if path.name not in kept:
                freed += path.stat().st_size
                path.unlink()
        return freed


def _unique(entries: Iterable[FileEntry]) -> list[FileEntry]:
    """Return one entry a digest, executable where one of them is, the largest first."""
    by_mode = sorted(entries, key=lambda entry: entry.mode)
    found = {entry.sha256: entry for entry in by_mode}.values()
    return sorted(found, key=lambda entry: -entry.size_bytes)


def _mode(entry: FileEntry) -> int:
    return 0o555 if entry.mode & 0o111 else 0o444


def _differs(
    entry: FileEntry, stream: BinaryIO, copy: BinaryIO | None, progress: Progress
) -> FileDefect | None:
    """Read a stream to its end, and return what is wrong with it; `copy` gets what was hashed."""
    size_bytes = os.fstat(stream.fileno()).st_size
    if size_bytes == entry.size_bytes:
        size_bytes, got = copy_hashing(inventory.Medium(stream), copy, progress.advance)
        if copy is not None:
            copy.flush()
        if (size_bytes, got) == (entry.size_bytes, entry.sha256):
            return None
        if size_bytes == entry.size_bytes:
            return FileDefect(entry.path, "changed", f"sha256 {entry.sha256}", got)
    return FileDefect(entry.path, "size", f"{entry.size_bytes} bytes", f"{size_bytes} bytes")


def _link(source: BinaryIO, incoming: Path, mode: int) -> bool:
    """Link a file of the medium, read-only from now on; False where it cannot be made safe.

    It is the file that is open, whatever its name leads to meanwhile. Where nothing was linked the
    medium is as it was.
    """
    before = os.fstat(source.fileno())
    number = source.fileno()
    try:
        os.fchown(number, os.geteuid(), -1)
        os.fchmod(number, mode)
        if disk.nobody_writes(source):
            # a folder has to be named for the link to be followed: os.link calls link(2) without
            os.link(f"/proc/self/fd/{number}", incoming, src_dir_fd=number, follow_symlinks=True)
            return True
    except OSError:
        pass
    _restore(source, before)
    return False


def _restore(source: BinaryIO, before: os.stat_result) -> None:
    with suppress(OSError):
        os.fchmod(source.fileno(), stat.S_IMODE(before.st_mode))
        os.fchown(source.fileno(), before.st_uid, -1)
