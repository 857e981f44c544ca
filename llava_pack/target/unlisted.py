"""The files that SHA256SUMS does not list: each has one content that it may have, byte for byte.

SHA256SUMS is what the bundle id is made of. START-HERE.txt follows from the manifest, key.pem from
the key that signed, and a signature from the two numbers in it. So nothing else rides along.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path

from llava_pack.format.errors import IntegrityError
from llava_pack.format.manifest import Manifest
from llava_pack.format.part import MAX_PART_BYTES, PART_NAME, MediumPart, parse_part
from llava_pack.format.signature import MAX_SIGNATURE_BYTES, PublicKey, as_made
from llava_pack.format.sums import SUMS_NAME, UNLISTED
from llava_pack.format.welcome import MAX_START_BYTES, START_NAME, start_here
from llava_pack.target import inventory
from llava_pack.target.inventory import BundleListing, FileDefect


@dataclass(frozen=True)
class Accounted:
    """The unlisted files of a bundle: the sizes in bytes of those that are right, and the rest."""

    sizes: Mapping[str, int]
    defects: tuple[FileDefect, ...]


def account(listing: BundleListing, manifest: Manifest, key: PublicKey | None) -> Accounted:
    """Hold every unlisted file against the one content that it may have.

    One that is not there, or no plain file, is neither: `inventory.survey` names those.

    Args:
        listing: of the bundle.
        manifest: as SHA256SUMS lists it.
        key: that made the signatures, which were accepted; None for a bundle that has none.
    """
    sizes = {SUMS_NAME: len(listing.sums_bytes)}
    defects = []
    names = sorted((UNLISTED | {PART_NAME}) - {SUMS_NAME})
    for root, name in product(listing.roots, names):
        if (data := _read(root, name)) is None:
            continue
        size = (root / name).lstat().st_size
        if name == PART_NAME:
            expected = "what carry writes for a medium of this bundle"
            right = part_at(listing, root) is not None
        elif name == START_NAME:
            expected, right = _welcome(data, manifest)
        elif key is None:
            expected = "no such file in an unsigned bundle"
            right = False
        else:
            expected = "the file that the signer made"
            right = data == as_made(name, data, key)
        if right:
            sizes[name] = size
        else:
            defects.append(FileDefect(name, "changed", expected, f"another file of {size} bytes"))
    return Accounted(sizes, tuple(defects))


def part_at(listing: BundleListing, root: Path) -> MediumPart | None:
    """Return what PART.json says on one medium; None where there is none, or one that is wrong."""
    try:
        data = inventory.read_file(root, PART_NAME, MAX_PART_BYTES)
        return parse_part(data, listing.bundle_id, listing.sums)
    except IntegrityError:
        return None


def _read(root: Path, name: str) -> bytes | None:
    """Return a file, or one byte more than it may have; None where there is none to read."""
    try:
        return inventory.read_file(root, name, max(MAX_START_BYTES, MAX_SIGNATURE_BYTES))
    except IntegrityError:
        return None


def _welcome(data: bytes, manifest: Manifest) -> tuple[str, bool]:
    """Return what START-HERE.txt must be, and whether it is: other versions may word it anew."""
    ours = sha256(start_here(manifest.recipe.name, manifest.recipe.title).encode()).hexdigest()
    stated = manifest.start_here_sha256 or ours
    return f"sha256 {stated}, as the manifest says", sha256(data).hexdigest() == stated
