"""The folder in which a bundle grows, and the journal that lets a stopped build go on.

A group is a set of files made together from known inputs. Its key is a digest of those inputs and
of the code that turns them into files: a group with the same key, whose files are all there, is not
made again.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from llava_pack import __version__
from llava_pack.assemble.chunk_digests import FileDigests, copy_in_chunks
from llava_pack.format.chunks import Chunks
from llava_pack.format.errors import IntegrityError
from llava_pack.format.files import sync
from llava_pack.format.manifest import FileEntry
from llava_pack.format.paths import bundle_path
from llava_pack.format.progress import Progress
from llava_pack.placing import SharedWay, share

_JOURNAL = ".journal"


class Staging:
    """A bundle in the making.

    Args:
        root: the folder, created where it does not exist; on the file system of the bundle.
        progress: counts the bytes that are written.
    """

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root = root
        self.progress = progress
        self.root.mkdir(parents=True, exist_ok=True)
        self._journal = root / _JOURNAL
        self._known = self._read_journal()
        self._entries: dict[str, FileEntry] = {}
        self._chunks: dict[str, tuple[str, ...]] = {}
        self.shared: dict[str, SharedWay] = {}
        """By path, which files share their bytes with the cache or with another bundle."""

    @property
    def entries(self) -> tuple[FileEntry, ...]:
        """Return the files so far, sorted by path."""
        return tuple(self._entries[path] for path in sorted(self._entries))

    @property
    def chunks(self) -> Chunks:
        """Return the digests of the chunks of the files so far."""
        held = {entry.sha256 for entry in self._entries.values() if entry.carried}
        return Chunks(sha256={one: self._chunks[one] for one in sorted(held & self._chunks.keys())})

    def left_out(self, entry: FileEntry) -> None:
        """Add a file that the bundle names and does not hold; the target fetches it."""
        self._entries[entry.path] = entry

    def group(
        self, name: str, inputs: Iterable[str], make: Callable[[], Iterable[FileEntry]]
    ) -> tuple[FileEntry, ...]:
        """Return the files of a group, made now or found as an earlier run left them.

        Args:
            name: unique within a build, for example `model`.
            inputs: digests and settings that decide the content.
            make: writes the files below `root` and returns their entries.
        """
        key = sha256("\0".join([__version__, *inputs]).encode()).hexdigest()
        known = self._known.get(name)
        if known is not None and known["key"] == key and self._present(known["files"]):
            entries = tuple(FileEntry(**fields) for fields in known["files"])
            self._chunks.update({one: tuple(found) for one, found in known["chunks"].items()})
            self.shared.update(known.get("shared", {}))
        else:
            entries = tuple(make())
            self._write_journal(name, key, entries)
        self._entries.update({entry.path: entry for entry in entries})
        return entries

    def text(
        self, path: str, content: bytes, origin: Mapping[str, Any], *, mode: int = 0o644
    ) -> FileEntry:
        """Write a small file and return its entry."""
        target = self._place(path)
        target.write_bytes(content)
        target.chmod(mode)
        return _entry(path, len(content), sha256(content).hexdigest(), origin, mode)

    def copy(
        self,
        path: str,
        source: Path,
        origin: Mapping[str, Any],
        *,
        mode: int = 0o644,
        digest: str | None = None,
        cached: bool = False,
    ) -> FileEntry:
        """Copy a file, hashing it on the way, and return its entry.

        Args:
            path: in the bundle.
            source: the file.
            origin: where it came from.
            mode: in the bundle.
            digest: that it must have.
            cached: it is the cache's: the bundle shares its bytes where the disk can, and the
                bundle's own file is what is hashed.

        Raises:
            IntegrityError: its digest is not the one that was promised.
        """
        target = self._place(path)
        way = share(source, target) if cached else None
        with ExitStack() as stack:
            reader = stack.enter_context((target if way else source).open("rb"))
            writer = None if way else stack.enter_context(target.open("wb"))
            found = copy_in_chunks(reader, writer, self.progress.advance)
        if digest is not None and found.sha256 != digest:
            raise IntegrityError(f"expected sha256 {digest}, got {found.sha256}", subject=path)
        if way:
            self.shared[path] = way
        if way != "linked":
            target.chmod(mode)
        return self._hashed(path, found, origin, mode)

    def written(self, target: Path, origin: Mapping[str, Any], *, mode: int = 0o644) -> FileEntry:
        """Return the entry of a file that something else wrote below `root`."""
        path = bundle_path(target.relative_to(self.root).as_posix())
        target.chmod(mode)
        with target.open("rb") as stream:
            found = copy_in_chunks(stream, None, self.progress.advance)
        return self._hashed(path, found, origin, mode)

    def clean(self, path: str) -> Path:
        """Return the folder `path` below `root`, emptied."""
        folder = self.root / bundle_path(path)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def remove_strangers(self) -> None:
        """Remove every file that the bundle does not hold: left-overs of other runs."""
        held = {entry.path for entry in self.entries if entry.carried}
        for folder, _, names in os.walk(self.root, topdown=False):
            for name in names:
                path = Path(folder, name)
                if path.relative_to(self.root).as_posix() not in held:
                    path.unlink()
            if not any(Path(folder).iterdir()):
                Path(folder).rmdir()

    def _hashed(
        self, path: str, found: FileDigests, origin: Mapping[str, Any], mode: int
    ) -> FileEntry:
        if len(found.chunks) > 1:
            self._chunks[found.sha256] = found.chunks
        return _entry(path, found.size_bytes, found.sha256, origin, mode)

    def _place(self, path: str) -> Path:
        target = self.root / bundle_path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        return target

    def _present(self, files: Iterable[Mapping[str, Any]]) -> bool:
        for fields in files:
            path = self.root / fields["path"]
            if not path.is_file() or path.stat().st_size != fields["size_bytes"]:
                return False
        return True

    def _read_journal(self) -> dict[str, Any]:
        try:
            lines = self._journal.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        known: dict[str, Any] = {}
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:  # the last line of a run that was killed while writing it
                break
            if "chunks" in record:  # an earlier version hashed none
                known[record["group"]] = record
        return known

    def _write_journal(self, name: str, key: str, entries: tuple[FileEntry, ...]) -> None:
        for entry in entries:
            sync(self.root / entry.path)
        record = {
            "group": name,
            "key": key,
            "files": [asdict(entry) for entry in entries],
            "chunks": {
                one.sha256: self._chunks[one.sha256]
                for one in entries
                if one.sha256 in self._chunks
            },
            "shared": {
                one.path: self.shared[one.path] for one in entries if one.path in self.shared
            },
        }
        with self._journal.open("a", encoding="utf-8", newline="\n") as journal:
            journal.write(json.dumps(record) + "\n")
            journal.flush()
            os.fsync(journal.fileno())


def _entry(
    path: str, size_bytes: int, digest: str, origin: Mapping[str, Any], mode: int = 0o644
) -> FileEntry:
    return FileEntry(
        path=bundle_path(path), size_bytes=size_bytes, mode=mode, sha256=digest, origin=dict(origin)
    )
