"""Files that several bundles of one laptop have alike: the second bundle takes no room for them.

<cache>/bundle-files.json says by digest where bundles hold a large file. It is a hint: what it
names is hashed before it is used, and no byte is kept for it. So whoever removes a bundle has its
room back, and hurts no other one: a clone or a link stays whole without the first.
"""

import json
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_pack.assemble.staging import Staging
from llava_pack.fetch.cache import Cache
from llava_pack.format import canonical, files, records
from llava_pack.format.digests import sha256_stream
from llava_pack.format.errors import IntegrityError
from llava_pack.format.manifest import FileEntry
from llava_pack.format.progress import Progress
from llava_pack.placing import SharedWay, share

_FROM_BYTES = 1 << 16
_MAX_INDEX_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class _BundleIndex:
    """Where files lie, by digest."""

    places: Mapping[str, tuple[str, ...]]


class BundleFiles:
    """Where the bundles of this laptop hold their large files.

    Args:
        cache: beside whose files that is noted.
    """

    def __init__(self, cache: Cache) -> None:
        self._path = cache.root / "bundle-files.json"

    def share(self, staging: Staging) -> None:
        """Put files of other bundles in the place of what was written alike, each hashed there.

        Raises:
            OSError: the disk is full.
        """
        known = self._read()
        alike = [
            (entry, known[entry.sha256])
            for entry in _large(staging.entries)
            if entry.path not in staging.shared and entry.sha256 in known
        ]
        progress = staging.progress
        progress.start("share with other bundles", sum(entry.size_bytes for entry, _ in alike))
        for entry, twins in alike:
            target = staging.root / entry.path
            ways = (_taken(Path(twin), entry, target, progress) for twin in twins)
            if way := next((way for way in ways if way), None):
                staging.shared[entry.path] = way
        progress.done()

    def note(self, bundle: Path, entries: Iterable[FileEntry]) -> None:
        """Remember where a complete bundle holds its files, and forget what has gone."""
        known = {digest: set(places) for digest, places in self._read().items()}
        for entry in _large(entries):
            place = str((bundle / entry.path).absolute())
            known.setdefault(entry.sha256, set()).add(place)
        there = {
            digest: tuple(sorted(place for place in places if _is_plain(Path(place))))
            for digest, places in known.items()
        }
        index = _BundleIndex(places={digest: places for digest, places in there.items() if places})
        text = json.dumps(records.encode(index)).encode()
        files.write(self._path, text, 0o600, durable=False)

    def _read(self) -> Mapping[str, tuple[str, ...]]:
        try:
            value = canonical.loads(self._path.read_bytes(), max_bytes=_MAX_INDEX_BYTES)
        except (OSError, IntegrityError):
            return {}
        index = records.decode(_BundleIndex, value, records.Defects())
        return {} if index is None else index.places


def _large(entries: Iterable[FileEntry]) -> Iterator[FileEntry]:
    return (entry for entry in entries if entry.carried and entry.size_bytes >= _FROM_BYTES)


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _taken(twin: Path, entry: FileEntry, target: Path, progress: Progress) -> SharedWay | None:
    """Have a file share the bytes of its twin; None, and all as it was, where it cannot."""
    if not _is_plain(twin) or twin.stat().st_size != entry.size_bytes:
        return None
    if twin.samefile(target):  # an earlier run of this build linked it
        return "linked"
    if (twin.stat().st_mode ^ entry.mode) & 0o111:
        return None
    beside = target.with_name(f".{target.name}.twin")
    beside.unlink(missing_ok=True)
    try:
        if (way := share(twin, beside)) is None:
            return None
        with beside.open("rb") as stream:
            if sha256_stream(stream, progress.advance) != entry.sha256:
                return None
        if way == "cloned":
            beside.chmod(entry.mode)
        files.move(beside, target)
        files.sync(target)
        return way
    finally:
        beside.unlink(missing_ok=True)
