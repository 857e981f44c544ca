"""What of a bundle is to be carried: all of it, what is missing there, or what went bad."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llava_pack.client.sending.cargo import BUILD_AGAIN, unlisted_files, wrong_sizes
from llava_pack.crossing.digest_list import DigestList, parse_digest_list
from llava_pack.crossing.plan import INSTALLER, STARTS, CarriedFile
from llava_pack.format.chunks import runs
from llava_pack.format.errors import IntegrityError, PackError, UsageError
from llava_pack.format.manifest import Manifest
from llava_pack.format.sums import MANIFEST_NAME, MAX_SUMS_BYTES, SUMS_NAME
from llava_pack.target import inventory
from llava_pack.target.contents import survey
from llava_pack.target.inventory import BundleListing, FileDefect
from llava_pack.target.unlisted import part_at


@dataclass(frozen=True, kw_only=True)
class CarrySource:
    """A whole bundle on this laptop."""

    listing: BundleListing
    manifest: Manifest
    head: dict[str, bytes]
    """What is on every medium: SHA256SUMS, the manifest, signatures, key and START-HERE."""

    @property
    def root(self) -> Path:
        """Its folder."""
        return self.listing.root

    def files(self) -> tuple[CarriedFile, ...]:
        """Return everything that can travel."""
        chunks = self.manifest.chunks
        return tuple(
            CarriedFile(
                path=one.path,
                size_bytes=one.size_bytes,
                sha256=one.sha256,
                chunks=chunks.spans(one.sha256, one.size_bytes),
            )
            for one in self.manifest.files
            if one.carried
        )


def read_source(root: Path, *, expect: str | None = None) -> CarrySource:
    """Return a bundle that is to be carried; names, kinds and sizes are checked, no weights read.

    Raises:
        UsageError: it is no folder, or one medium of a bundle.
        SignatureError: its id is not the expected one.
        IntegrityError: it is no bundle, or not whole.
    """
    listing = inventory.read_listing(root, expect=expect)
    manifest, manifest_bytes = inventory.read_manifest(listing)
    found = survey(listing)
    sizes = {one.path: one.size_bytes for one in manifest.files if one.carried}
    defects = [
        *found.strange,
        *(FileDefect(p, "missing", "a file", "nothing") for p in sizes if p not in found.whole),
        *wrong_sizes(root, {path: size for path, size in sizes.items() if path in found.whole}),
        *(FileDefect(one.name, "extra", "nothing", "a file") for one in found.unnamed),
    ]
    if defects:
        _refuse_medium(listing, defects)
        refusal = inventory.refusal(defects, of=len(listing.sums))
        raise IntegrityError(refusal.message, subject=str(root), hint=BUILD_AGAIN)
    head = {**unlisted_files(root), SUMS_NAME: listing.sums_bytes, MANIFEST_NAME: manifest_bytes}
    return CarrySource(listing=listing, manifest=manifest, head=head)


def _refuse_medium(listing: BundleListing, defects: Iterable[FileDefect]) -> None:
    """Refuse one medium of a bundle: what is missing of it is on others, or on a server.

    Raises:
        UsageError: it is one.
    """
    part = part_at(listing, listing.root)
    if part is None:
        return
    if {one.path for one in defects if one.problem == "missing"} - {*part.here}:
        raise UsageError(
            f"this is medium {part.medium} of {len(part.media)} of a bundle, expected all of it",
            subject=str(listing.root),
            hint="pass the folder that llava-pack build wrote",
        )


def less(files: Iterable[CarriedFile], have: DigestList) -> tuple[CarriedFile, ...]:
    """Return the files that a machine does not have."""
    return tuple(one for one in files if one.sha256 not in have)


def wanted(
    files: Sequence[CarriedFile], need: DigestList, bundle_id: str, *, manifest_sha256: str = ""
) -> tuple[CarriedFile, ...]:
    """Return the files that a machine needs, and of large ones the chunks that it needs.

    With them goes install.sh, which a person starts; and where something is needed that it starts
    with, or the manifest, all that it starts with: the repair starts by itself.

    Args:
        files: of the bundle.
        need: what a server asks for.
        bundle_id: of the bundle.
        manifest_sha256: of its manifest, which travels on every medium.

    Raises:
        UsageError: nothing of this bundle is needed, or the list was made for another one.
    """
    if need.bundle_id not in {None, bundle_id}:
        raise UsageError(
            f"is of bundle {need.bundle_id}, expected {bundle_id}",
            subject="--need",
            hint="pass the bundle that the server was given, or the need.json for this one",
        )
    found = []
    for one in {one.sha256: one for one in files}.values():
        if one.sha256 in need:
            found.append(one)
        elif spans := tuple(runs(chunk for chunk in one.chunks if chunk.sha256 in need)):
            found.append(replace(one, wanted=spans))
    listed = manifest_sha256 in need
    if not found and not listed:
        raise UsageError(
            "names nothing of this bundle",
            subject="--need",
            hint="need.json is made by the server for the bundle that it was given",
        )
    alone = listed or any(one.path.startswith(STARTS) for one in found)
    begins = STARTS if alone else (INSTALLER,)
    starts = [one for one in files if one.path.startswith(begins)]
    return (*starts, *(one for one in found if not one.path.startswith(begins)))


def read_list(text: str, kind: str) -> DigestList:
    """Return the list that `--have` or `--need` names.

    Raises:
        UsageError: it is none, or one of the other kind.
    """
    if kind == "have" and not text.strip():
        return DigestList("have", frozenset())  # a new server has nothing
    found = parse_digest_list(text)
    if kind == "need" and found.kind is None:
        message = "expected need.json or `need:…`, got a plain list of digests"
        raise UsageError(message, subject="--need", hint="pass what a server has with --have")
    if found.kind not in {kind, None}:
        message = f"expected what a server {kind}s, got a list that begins with {found.kind}:"
        raise UsageError(message, subject=f"--{kind}", hint=f"pass it with --{found.kind}")
    return found


def read_base(path: Path) -> DigestList:
    """Return what a server has that an earlier bundle was installed on.

    Args:
        path: of that bundle, or of its SHA256SUMS.

    Raises:
        UsageError: it is neither.
    """
    sums = path / SUMS_NAME if path.is_dir() else path
    try:
        with sums.open("rb") as stream:
            return parse_digest_list(stream.read(MAX_SUMS_BYTES + 1).decode("ascii"))
    except (OSError, ValueError, PackError) as error:
        message = "expected an earlier bundle, or its SHA256SUMS"
        hint = "the folder that build wrote, or the SHA256SUMS in it"
        raise UsageError(message, subject=f"--base {path}", hint=hint) from error
