"""A bundle as it is sent: its files here, each with size and digest, before a byte travels."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from llava_pack.format.digests import sha256_stream
from llava_pack.format.errors import IntegrityError
from llava_pack.format.signature import MAX_SIGNATURE_BYTES
from llava_pack.format.sums import MANIFEST_NAME, SUMS_NAME, UNLISTED
from llava_pack.format.welcome import MAX_START_BYTES
from llava_pack.target import inventory
from llava_pack.target.contents import survey
from llava_pack.target.inventory import FileDefect

BUILD_AGAIN = "llava-pack verify names every file that differs; then build the bundle again"


@dataclass(frozen=True, kw_only=True)
class CargoFile:
    """One file that belongs on the server."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Cargo:
    """A bundle that is sent."""

    root: Path
    bundle_id: str
    recipe: str
    files: tuple[CargoFile, ...]
    absent: frozenset[str]
    """Files that are not here: a bundle may be partial, and the server's store completes it."""

    def damaged(self, file: CargoFile) -> bool:
        """Say whether the file here is not what SHA256SUMS says: its bytes are read."""
        try:
            with inventory.open_file(self.root, file.path) as stream:
                return sha256_stream(stream) != file.sha256
        except OSError:
            return True


def read_cargo(root: Path, *, expect: str | None = None) -> Cargo:
    """Return what is to be sent of a bundle; names, kinds and sizes are checked, no weights read.

    Raises:
        UsageError: it is no folder.
        SignatureError: its id is not the expected one.
        IntegrityError: it is no bundle, or files are changed in size or no plain files.
    """
    listing = inventory.read_listing(root, expect=expect)
    manifest, manifest_bytes = inventory.read_manifest(listing)
    found = survey(listing)
    absent = frozenset(listing.sums.keys() - found.whole.keys())
    defects = [one for one in found.strange if one.problem != "extra"]
    sizes = {entry.path: entry.size_bytes for entry in manifest.files}
    sizes[MANIFEST_NAME] = len(manifest_bytes)
    defects += wrong_sizes(root, {path: sizes[path] for path in listing.sums.keys() - absent})
    if defects:
        refusal = inventory.refusal(tuple(defects), of=len(listing.sums))
        raise IntegrityError(refusal.message, subject=str(root), hint=BUILD_AGAIN)
    files = [
        CargoFile(path=path, size_bytes=sizes[path], sha256=digest)
        for path, digest in listing.sums.items()
    ]
    return Cargo(
        root=root,
        bundle_id=listing.bundle_id,
        recipe=manifest.recipe.name,
        files=(*_unlisted(root), *files),
        absent=absent,
    )


def wrong_sizes(root: Path, sizes: Mapping[str, int]) -> list[FileDefect]:
    """Return the files below `root` that have another size in bytes than was promised."""
    found = {path: (root / path).lstat().st_size for path in sorted(sizes)}
    return [
        FileDefect(path, "size", f"{sizes[path]} bytes", f"{size_bytes} bytes")
        for path, size_bytes in found.items()
        if size_bytes != sizes[path]
    ]


def unlisted_files(root: Path) -> dict[str, bytes]:
    """Return the files that SHA256SUMS does not list and that are there, itself first."""
    most = max(MAX_START_BYTES, MAX_SIGNATURE_BYTES)
    return {
        name: inventory.read_file(root, name, most if name != SUMS_NAME else 1 << 30)
        for name in sorted(UNLISTED, key=lambda name: (name != SUMS_NAME, name))
        if (root / name).is_file()
    }


def _unlisted(root: Path) -> list[CargoFile]:
    return [
        CargoFile(path=name, size_bytes=len(data), sha256=sha256(data).hexdigest())
        for name, data in unlisted_files(root).items()
    ]


def damage(path: str) -> IntegrityError:
    """Return the error for a file that is damaged on this laptop."""
    return IntegrityError(
        "damaged on this laptop: its bytes are not those that SHA256SUMS lists",
        subject=path,
        hint=BUILD_AGAIN,
    )
