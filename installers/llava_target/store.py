"""The store of a prefix: files by digest, each hashed as it was placed, read-only ever after."""

import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llava_pack.format.digests import copy_hashing, sha256_stream
from llava_pack.format.manifest import FileEntry
from llava_pack.format.progress import Progress
from llava_target import disk, inventory
from llava_target.inventory import Defect

_EXECUTABLE = 0o111


class Store:
    """Files of all bundles that were installed under one prefix.

    Args:
        prefix: of the installation.
    """

    def __init__(self, prefix: Path) -> None:
        self.root = prefix / "store"
        self._objects = self.root / "sha256"
        self._scratch = self.root / "incoming"

    def path(self, sha256: str) -> Path:
        """Return where the file with this digest is, or would be."""
        return self._objects / sha256[:2] / sha256

    def stored_bytes(self, entries: Iterable[FileEntry]) -> int:
        """Return how many bytes of `entries` are in the store already."""
        unique = {entry.sha256: entry.size_bytes for entry in entries}
        return sum(size for sha256, size in unique.items() if self.path(sha256).is_file())

    def place(self, bundle: Path, entries: Iterable[FileEntry], progress: Progress) -> None:
        """Bring every file of a bundle into the store, hashing the bytes that are stored.

        A file that is in the store already is read there, not on the medium, and replaced where
        it went bad.

        Raises:
            IntegrityError: naming every file whose bytes are not what the manifest says.
            SpaceError: the disk is full; what was placed stays for the next run.
        """
        unique: dict[str, FileEntry] = {}
        for entry in sorted(entries, key=lambda entry: entry.mode):
            unique[entry.sha256] = entry
        for folder in {self.path(sha256).parent for sha256 in unique} | {self._scratch}:
            folder.mkdir(parents=True, exist_ok=True)
        largest_first = sorted(unique.values(), key=lambda entry: -entry.size_bytes)
        progress.start("placing files", sum(entry.size_bytes for entry in unique.values()))
        with disk.room_on(self.root), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            found = list(
                pool.map(lambda entry: self._place(bundle, entry, progress), largest_first)
            )
        disk.sync(self._objects)
        for folder in {self.path(sha256).parent for sha256 in unique}:
            disk.sync(folder)
        progress.done()
        defects = sorted((defect for defect in found if defect), key=lambda defect: defect.path)
        for defect in defects:
            progress.note(f"✗ {defect}")
        if defects:
            raise inventory.refusal(tuple(defects), of=len(unique))

    def _place(self, bundle: Path, entry: FileEntry, progress: Progress) -> Defect | None:
        if self._holds(entry, progress):
            return None
        incoming = self._scratch / f"{entry.sha256}.{os.getpid()}.{threading.get_ident()}"
        try:
            defect = _copy(bundle, entry, incoming, progress)
            if defect is None:
                incoming.rename(self.path(entry.sha256))
            return defect
        finally:
            incoming.unlink(missing_ok=True)

    def _holds(self, entry: FileEntry, progress: Progress) -> bool:
        try:
            with inventory.open_file(self._objects, f"{entry.sha256[:2]}/{entry.sha256}") as stream:
                facts = os.fstat(stream.fileno())
                if facts.st_size != entry.size_bytes:
                    return False
                if sha256_stream(stream, progress.advance) != entry.sha256:
                    return False
                os.fchmod(stream.fileno(), (facts.st_mode & 0o777) | _mode(entry))
                return True
        except OSError:
            return False

    def sweep(self, keep: Iterable[str]) -> int:
        """Remove every file that is not among the digests `keep`, and return the bytes freed."""
        kept = set(keep)
        freed = 0
        for folder in sorted(self._objects.glob("*")):
            for path in folder.iterdir():
                if path.name not in kept:
                    freed += path.stat().st_size
                    path.unlink()
        self.clear_incoming()
        return freed

    def clear_incoming(self) -> None:
        """Remove what a killed run left half-copied."""
        disk.remove_tree(self._scratch)


def _mode(entry: FileEntry) -> int:
    return 0o555 if entry.mode & _EXECUTABLE else 0o444


def _copy(bundle: Path, entry: FileEntry, incoming: Path, progress: Progress) -> Defect | None:
    try:
        source = inventory.open_file(bundle, entry.path)
    except OSError as error:
        return inventory.unreadable(entry.path, error)
    with source, incoming.open("xb") as destination:
        size = os.fstat(source.fileno()).st_size
        if size != entry.size_bytes:
            return inventory.wrong_size(entry.path, entry.size_bytes, size)
        try:
            _, got = copy_hashing(source, destination, progress.advance)
        except OSError as error:
            if error.errno in disk.FULL:
                raise
            return inventory.unreadable(entry.path, error)
        if got != entry.sha256:
            return inventory.changed(entry.path, entry.sha256, got)
        destination.flush()
        os.fchmod(destination.fileno(), _mode(entry))
        os.fsync(destination.fileno())
    return None
