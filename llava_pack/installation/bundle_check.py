"""A whole bundle, read once: what `verify` reports."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from llava_pack.format import records
from llava_pack.format.errors import IntegrityError
from llava_pack.format.manifest import Manifest
from llava_pack.format.progress import Progress
from llava_pack.format.signature import PublicKey
from llava_pack.format.sums import MANIFEST_NAME
from llava_pack.target.inventory import BundleListing, FileDefect, check, read_manifest, survey
from llava_pack.target.unlisted import Accounted, account

_STRANGE = ("extra", "too-many")


@dataclass(frozen=True, kw_only=True)
class BundleCheck:
    """The outcome of reading a whole bundle; `manifest` is None where it is among the defects."""

    listing: BundleListing
    manifest: Manifest | None
    defects: tuple[FileDefect, ...]
    size_bytes: int
    unlisted: Mapping[str, int]
    """Files that SHA256SUMS does not list and that are as they must be, with their sizes."""

    def facts(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return {
            "ok": not self.defects,
            "bundle_id": self.listing.bundle_id,
            "expected": self.listing.expected,
            "files": len(self.listing.sums),
            "size_bytes": self.size_bytes,
            "left_out": [] if self.manifest is None else [e.path for e in self.manifest.left_out],
            "unlisted": dict(self.unlisted),
            "defects": records.encode(self.defects),
            "copy_again": [one.path for one in self.defects if one.problem not in _STRANGE],
        }


def examine(
    listing: BundleListing,
    *,
    progress: Progress,
    key: PublicKey | None = None,
    threads: int | None = None,
) -> BundleCheck:
    """Read a whole bundle, each byte once, and report every difference.

    Args:
        listing: of the bundle.
        progress: told the bytes.
        key: that signed it, None where nobody did.
        threads: how many files are read at once, None for one each processor.

    Raises:
        IntegrityError: SHA256SUMS is malformed.
    """
    defects = {defect.path: defect for defect in survey(listing)}
    manifest, sizes, others = None, dict[str, int](), Accounted({}, ())
    try:
        manifest, _ = read_manifest(listing)
        others = account(listing, manifest, key)
        sizes = {entry.path: entry.size_bytes for entry in manifest.files if entry.carried}
    except IntegrityError as error:
        bad = FileDefect(MANIFEST_NAME, "changed", "the manifest", error.message)
        defects.setdefault(MANIFEST_NAME, bad)
    paths = sorted(listing.sums.keys() - defects.keys() - {MANIFEST_NAME})
    paths.sort(key=lambda path: -sizes.get(path, 0))
    progress.start("reading the bundle", sum(sizes.values()) or None)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        promises = {path: (listing.sums[path], sizes.get(path)) for path in paths}
        found = pool.map(lambda path: check(listing.root, path, promises[path], progress), paths)
        defects |= {defect.path: defect for defect in found if defect is not None}
    defects |= {defect.path: defect for defect in others.defects}
    progress.done()
    return BundleCheck(
        listing=listing,
        manifest=manifest,
        defects=tuple(defects[path] for path in sorted(defects)),
        size_bytes=sum(sizes.values()),
        unlisted=others.sizes,
    )
