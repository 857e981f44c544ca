"""The store of a prefix: files by digest, each hashed as it was placed, read-only ever after."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llava_pack.format.manifest import FileEntry
from llava_pack.format.progress import Progress
from llava_target import disk, inventory
from llava_target.inventory import Defect


class Store:
    """Files of all bundles that were installed under one prefix.

    Args:
        prefix: of the installation.
    """

    def __init__(self, prefix: Path) -> None:
        self.root = prefix / "store"
        self._objects = self.root / "sha256"
        self._incoming = self.root / "incoming"

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
        by_mode = sorted(entries, key=lambda entry: entry.mode)
        unique = list({entry.sha256: entry for entry in by_mode}.values())
        unique.sort(key=lambda entry: -entry.size_bytes)
        folders = {self.path(entry.sha256).parent for entry in unique}
        for folder in (self._incoming, *folders):
            folder.mkdir(parents=True, exist_ok=True)
        progress.start("placing files", sum(entry.size_bytes for entry in unique))
        with disk.room_on(self.root), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            found = list(pool.map(lambda entry: self._place(bundle, entry, progress), unique))
        for folder in (self._objects, *folders):
            disk.sync(folder)
        progress.done()
        defects = sorted((defect for defect in found if defect), key=lambda defect: defect.path)
        if defects:
            raise inventory.refusal(tuple(defects), of=len(unique))

    def _place(self, bundle: Path, entry: FileEntry, progress: Progress) -> Defect | None:
        final, incoming = self.path(entry.sha256), self._incoming / entry.sha256
        promise = (entry.sha256, entry.size_bytes)
        mode = 0o555 if entry.mode & 0o111 else 0o444
        stored = str(final.relative_to(self._objects))
        if final.exists() and not inventory.check(self._objects, stored, promise, progress):
            final.chmod((final.stat().st_mode & 0o555) | mode)
            return None
        try:
            with incoming.open("wb") as copy:
                defect = inventory.check(bundle, entry.path, promise, progress, copy)
                copy.flush()
                os.fchmod(copy.fileno(), mode)
                os.fsync(copy.fileno())
            if defect is None:
                incoming.rename(final)
        finally:
            incoming.unlink(missing_ok=True)
        return defect

    def sweep(self, keep: Iterable[str]) -> int:
        """Remove every file that is not among the digests `keep`, and return the bytes freed."""
        kept = set(keep)
        freed = 0
        for path in self._objects.glob("*/*"):
            if path.name not in kept:
                freed += path.stat().st_size
                path.unlink()
        return freed

    def clear_incoming(self) -> None:
        """Remove what a run that ended early left half-copied."""
        disk.remove_tree(self._incoming)
