"""A whole bundle, read once: what `verify` reports."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llava_pack.format import records
from llava_pack.format.chunks import FileChunk
from llava_pack.format.errors import IntegrityError
from llava_pack.format.manifest import Manifest
from llava_pack.format.part import MediumPart
from llava_pack.format.progress import Progress
from llava_pack.format.signature import PublicKey
from llava_pack.format.sums import MANIFEST_NAME
from llava_pack.target.contents import FilePlace, MediaContents, recognised, survey
from llava_pack.target.inventory import BundleListing, FileDefect, check, read_manifest
from llava_pack.target.pieces import check_piece
from llava_pack.target.rebuilding import renamed
from llava_pack.target.store import Store
from llava_pack.target.unlisted import Accounted, account, part_at

_STRANGE = ("extra", "too-many")


@dataclass(frozen=True, kw_only=True)
class BundleCheck:
    """The outcome of reading a whole bundle, or what a medium holds of one.

    Attributes:
        manifest: None where it is among the defects.
        part: which medium of a set this is; None for a bundle that is to be whole.
        absent: listed files that are not here, and do not have to be.
        size_bytes: how much was read.
        unlisted: files that SHA256SUMS does not list and that are as they must be, by size.
        litter: how many files of operating systems lie around, and are not read.
        renamed: where listed files are whose names the medium cut, by path.
    """

    listing: BundleListing
    manifest: Manifest | None
    part: MediumPart | None
    defects: tuple[FileDefect, ...]
    absent: tuple[str, ...]
    size_bytes: int
    unlisted: Mapping[str, int]
    litter: int
    renamed: Mapping[str, Path]

    def place(self, path: str) -> Path:
        """Return where a listed file or piece is, or is to be."""
        return self.renamed.get(path, self.listing.root / path)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """The size in bytes of each file, as far as the manifest can be read."""
        return _sizes(self.manifest)

    def facts(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return {
            "ok": not self.defects,
            "bundle_id": self.listing.bundle_id,
            "expected": self.listing.expected,
            "files": len(self.listing.sums),
            "size_bytes": self.size_bytes,
            "medium": None if self.part is None else self.part.medium,
            "media": None if self.part is None else len(self.part.media),
            "absent": list(self.absent),
            "left_out": [] if self.manifest is None else [e.path for e in self.manifest.left_out],
            "unlisted": dict(self.unlisted),
            "litter": self.litter,
            "defects": records.encode(self.defects),
            "copy_again": [one.path for one in self.defects if one.problem not in _STRANGE],
        }


@dataclass(frozen=True)
class _FileCheck:
    """One file or piece that is to be read."""

    place: FilePlace
    path: str
    sha256: str
    size_bytes: int
    chunks: Sequence[FileChunk] | None = None
    """Of the whole file, where this is a piece."""

    def run(self, progress: Progress) -> FileDefect | None:
        if self.chunks is not None:
            return check_piece(self.place, self.chunks, progress)
        promise = (self.sha256, self.size_bytes or None)
        found = check(self.place.root, self.place.name, promise, progress)
        return None if found is None else replace(found, path=self.path)


def examine(
    listing: BundleListing,
    *,
    progress: Progress,
    key: PublicKey | None = None,
    store: Store | None = None,
    threads: int | None = None,
) -> BundleCheck:
    """Read a whole bundle or what a medium holds of one, each byte once; report every difference.

    Args:
        listing: of the bundle.
        progress: told the bytes.
        key: that signed it, None where nobody did.
        store: of a prefix, whose files count as being here; they are read too.
        threads: how many files are read at once, None for one each processor.

    Raises:
        IntegrityError: SHA256SUMS is malformed.
    """
    contents = survey(listing)
    manifest, others = None, Accounted({}, ())
    defects: dict[str, FileDefect] = {}
    try:
        manifest, _ = read_manifest(listing)
        others = account(listing, manifest, key)
    except IntegrityError as error:
        bad = FileDefect(MANIFEST_NAME, "changed", "the manifest", error.message)
        defects[MANIFEST_NAME] = bad
    contents = recognised(contents, manifest)
    defects |= {defect.path: defect for defect in (*contents.strange, *others.defects)}
    checks = list(_checks(listing, manifest, contents, store))
    known = {one.path for one in checks if one.chunks is None}
    sizes = _sizes(manifest)
    known |= {path for path in contents.pieces if contents.present(path, sizes.get(path))}
    absent = [path for path in listing.sums if path not in known and path != MANIFEST_NAME]
    part = part_at(listing, listing.root)
    for path in _missing(absent, contents, part):
        defects.setdefault(path, FileDefect(path, "missing", "a file", "nothing"))
    progress.start("reading the bundle", sum(one.size_bytes for one in checks) or None)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        found = filter(None, pool.map(lambda one: one.run(progress), checks))
        defects |= {defect.path: defect for defect in found}
    progress.done()
    return BundleCheck(
        listing=listing,
        manifest=manifest,
        part=part,
        defects=tuple(defects[path] for path in sorted(defects)),
        absent=tuple(path for path in sorted(absent) if path not in defects),
        size_bytes=sum(one.size_bytes for one in checks),
        unlisted=others.sizes,
        litter=contents.litter,
        renamed=renamed(contents, listing.root),
    )


def _sizes(manifest: Manifest | None) -> dict[str, int]:
    return {one.path: one.size_bytes for one in (manifest.files if manifest else ())}


def _checks(
    listing: BundleListing, manifest: Manifest | None, contents: MediaContents, store: Store | None
) -> Iterator[_FileCheck]:
    """Yield what is read, the largest first."""
    entries = {} if manifest is None else {one.path: one for one in manifest.files if one.carried}
    checks = []
    for path, sha256 in listing.sums.items():
        if path == MANIFEST_NAME:
            continue
        size_bytes = entries[path].size_bytes if path in entries else 0
        places = list(contents.whole.get(path, ()))
        if not places and store is not None and (stored := store.path(sha256)).is_file():
            places = [FilePlace(stored.parent, stored.name)]
        checks += [_FileCheck(one, path, sha256, size_bytes) for one in places]
        if manifest is not None:
            chunks = manifest.chunks.spans(sha256, size_bytes)
            for piece in contents.pieces.get(path, ()):
                checks.append(_FileCheck(piece, path, sha256, piece.size_bytes, chunks))
    yield from sorted(checks, key=lambda one: -one.size_bytes)


def _missing(
    absent: Sequence[str], contents: MediaContents, part: MediumPart | None
) -> Iterator[str]:
    """Yield the files and pieces that should be here, and are not."""
    if part is None:
        yield from absent
        return
    pieces = {place.name for places in contents.pieces.values() for place in places}
    here = pieces | contents.whole.keys()
    yield from (name for name in part.here if name not in here)
