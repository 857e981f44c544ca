"""The store of a prefix: files by digest, each hashed as it was placed, read-only ever after."""

import os
import stat
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal

from llava_pack.format import files
from llava_pack.format.chunks import FileChunk
from llava_pack.format.digests import copy_hashing
from llava_pack.format.manifest import FileEntry, Manifest
from llava_pack.format.progress import Progress, Silent
from llava_pack.target import disk, inventory, pieces
from llava_pack.target.contents import FilePlace, MediaContents
from llava_pack.target.inventory import FileDefect
from llava_pack.target.need import Lack, LackError

Way = Literal["stored", "moved", "linked", "cloned", "copied", "fetched"]
"""How a file came into the store; only one that was copied takes its bytes once more."""
_MOVABLE = ("model/", "wheels/")
"""What --consume takes off a medium; the rest is needed to start install.sh from it again."""


@dataclass(frozen=True)
class _Item:
    """One content of a bundle, which files on media have or have parts of."""

    entry: FileEntry
    chunks: tuple[FileChunk, ...]
    whole: list[FilePlace] = field(default_factory=list)
    pieces: list[FilePlace] = field(default_factory=list)


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

    def partial(self, sha256: str) -> Path:
        """Return where the good parts of a file are collected."""
        return self.root / "partial" / sha256

    def foresee(
        self, contents: MediaContents, manifest: Manifest, *, consume: bool
    ) -> Counter[str]:
        """Return by which way how many bytes would be placed; a clone is foreseen as a copy."""
        sizes = Counter[str]()
        for item in _items(contents, manifest):
            entry = item.entry
            way: Way = "copied" if entry.carried else "fetched"
            if self.path(entry.sha256).is_file():
                way = "stored"
            elif item.whole:
                with suppress(OSError):  # it was pulled: placing says so
                    way = self._way(item.whole[0], entry, consume=consume)
            kept = self.partial(entry.sha256)
            blocks = kept.stat().st_blocks * 512 if way == "copied" and kept.is_file() else 0
            sizes["stored"] += min(blocks, entry.size_bytes)
            sizes[way] += entry.size_bytes - min(blocks, entry.size_bytes)
        return sizes

    def place(
        self, contents: MediaContents, manifest: Manifest, progress: Progress, *, consume: bool
    ) -> Counter[str]:
        """Bring every file of a bundle into the store; return by which way how many bytes came.

        A file that is there already is read there, not on a medium, and replaced if it went bad.

        Raises:
            LackError: naming every file that is missing, or whose bytes are not what the manifest
                says; the good parts of a large one are kept.
            SpaceError: the disk is full; what was placed stays for the next run.
        """
        items = _items(contents, manifest)
        for folder in (self.incoming, *(self.path(item.entry.sha256).parent for item in items)):
            folder.mkdir(parents=True, exist_ok=True)
        progress.start("placing files", sum(item.entry.size_bytes for item in items))

        def place(item: _Item) -> Way | Lack:
            return self._place(item, progress, consume=consume)

        with disk.room_on(self.root), ThreadPoolExecutor(_readers(contents)) as pool:
            found = list(pool.map(place, items))
        progress.done()
        lacks = sorted((one for one in found if isinstance(one, Lack)), key=lambda o: o.entry.path)
        if lacks:
            raise LackError(tuple(lacks), of=len(items))
        sizes = Counter[str]()
        for item, way in zip(items, found, strict=True):
            if not isinstance(way, Lack):
                sizes[way] += item.entry.size_bytes
        return sizes

    def _way(self, place: FilePlace, entry: FileEntry, *, consume: bool) -> Way:
        """Return how a file can be placed: without writing its bytes, where that is safe.

        Root links nothing, for it could be another account's file; what it moves, it first owns.
        """
        top = place.root.resolve()
        root = os.geteuid() == 0
        source = top / place.name
        if source.lstat().st_dev != disk.existing(self.incoming).stat().st_dev:
            return "copied"
        if not root and not disk.only_ours(source, top):
            return "copied"
        if consume and entry.path.startswith(_MOVABLE):
            return "moved"
        return "copied" if root else "linked"

    def _place(self, item: _Item, progress: Progress, *, consume: bool) -> Way | Lack:
        entry = item.entry
        final = self.path(entry.sha256)
        stored = str(final.relative_to(self._objects))
        promise = (entry.sha256, entry.size_bytes)
        found: Way | Lack = "stored"
        if not final.exists() or inventory.check(self._objects, stored, promise, progress):
            if not entry.carried:
                gone = FileDefect(entry.path, "changed", f"sha256 {entry.sha256}", "another file")
                defect = gone if final.exists() else None
                final.unlink(missing_ok=True)  # so that the next run fetches it
                return Lack(entry=entry, chunks=(), defect=defect)
            found = self._bring(item, progress, consume=consume)
        elif final.stat().st_mode & 0o333 != _mode(entry) & 0o333:
            final.chmod(_mode(entry))
        for place in item.whole if consume and final.exists() else ():
            if place.path.samefile(final):
                place.path.unlink()
        return found

    def _bring(self, item: _Item, progress: Progress, *, consume: bool) -> Way | Lack:
        """Bring a file from the first medium that has it good, else from all of its good parts."""
        entry = item.entry
        defect: FileDefect | None = None
        for place in item.whole:
            found = self._take(place, entry, progress, consume=consume)
            if not isinstance(found, FileDefect):
                self.partial(entry.sha256).unlink(missing_ok=True)
                return found
            defect = found
        places = [*item.whole, *item.pieces]
        partial = self.partial(entry.sha256)
        if not item.chunks or not (places or partial.exists()):
            return Lack(entry=entry, chunks=(), defect=defect, all_chunks=item.chunks)
        partial.parent.mkdir(exist_ok=True)
        missing, wrong = pieces.gather(partial, item.chunks, places, progress)
        if missing:
            return Lack(entry=entry, chunks=missing, defect=defect or wrong, all_chunks=item.chunks)
        promise = (entry.sha256, entry.size_bytes)
        if wrong := inventory.check(partial.parent, partial.name, promise, Silent()):
            partial.unlink()
            return Lack(entry=entry, chunks=(), defect=replace(wrong, path=entry.path))
        partial.chmod(_mode(entry))
        files.move(partial, self.path(entry.sha256))
        return "copied"

    def _take(
        self, place: FilePlace, entry: FileEntry, progress: Progress, *, consume: bool
    ) -> Way | FileDefect:
        """Place one file: read once, through the descriptor of what will be used."""
        incoming = self.incoming / entry.sha256
        incoming.unlink(missing_ok=True)
        try:
            source = inventory.open_file(place.root, place.name)
            way = self._way(place, entry, consume=consume)
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

    def digests(self) -> list[str]:
        """Return the digest of each file that is here, sorted; none is read."""
        return sorted(path.name for path in self._objects.glob("??/*"))

    def sweep(self, keep: Iterable[str]) -> int:
        """Remove every file that is not among the digests `keep`, and return the bytes freed."""
        kept = set(keep)
        freed = 0
        for path in (*self._objects.glob("*/*"), *self.partial("").glob("*")):
            if path.name not in kept:
                freed += path.stat().st_size
                path.unlink()
        return freed


def _readers(contents: MediaContents) -> int:
    """Return how many files are read at once."""
    lists = (*contents.whole.values(), *contents.pieces.values())
    roots = {place.root for places in lists for place in places}
    return 1 if any(map(disk.one_reader, roots)) else os.cpu_count() or 1


def _items(contents: MediaContents, manifest: Manifest) -> list[_Item]:
    """Return each content once, executable where a file with it is one, the largest first."""
    found: dict[str, _Item] = {}
    for entry in sorted(manifest.files, key=lambda entry: -entry.mode):
        item = found.setdefault(
            entry.sha256,
            _Item(entry, chunks=manifest.chunks.spans(entry.sha256, entry.size_bytes)),
        )
        item.whole.extend(contents.whole.get(entry.path, ()))
        item.pieces.extend(contents.pieces.get(entry.path, ()))
    return sorted(found.values(), key=lambda item: -item.entry.size_bytes)


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
