"""What a bundle says that it holds, against what is there: every difference, not the first."""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal

from llava_pack.format import files, records, sums
from llava_pack.format.digest_list import short_form
from llava_pack.format.digests import sha256_stream
from llava_pack.format.errors import IntegrityError, SignatureError, UsageError, reason_of
from llava_pack.format.manifest import MAX_FILE_BYTES, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from llava_pack.format.progress import Progress
from llava_pack.format.sums import MANIFEST_NAME, SUMS_NAME
from llava_pack.target import disk

COPY_AGAIN = "copy the named files again, then run the same command"
_SHOWN_DEFECTS = 10


@dataclass(frozen=True)
class FileDefect:
    """One difference between a bundle and what it says about itself."""

    path: str
    problem: Literal["changed", "missing", "extra", "size", "not-a-file", "unreadable", "too-many"]
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}, expected {self.expected}, got {self.got}"


@dataclass(frozen=True, kw_only=True)
class BundleListing:
    """A bundle whose SHA256SUMS was read, and held against `--expect` where one was given."""

    root: Path
    sums_bytes: bytes
    bundle_id: str
    expected: bool
    """The id is the one that a person typed, not only the one that the medium claims."""
    others: tuple[Path, ...] = ()
    """More media with files of this bundle."""
    spoiled: tuple[Path, ...] = ()
    """Those among them whose own SHA256SUMS is damaged."""

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders on all media."""
        return (self.root, *self.others)

    @cached_property
    def sums(self) -> Mapping[str, str]:
        """Return the digest of each path; read when it is wanted, which is after the signature.

        Raises:
            IntegrityError: SHA256SUMS is malformed.
        """
        return sums.parse_sums(self.sums_bytes)


def read_listing(root: Path, *, expect: str | None, others: tuple[Path, ...] = ()) -> BundleListing:
    """Read SHA256SUMS, and hold the id of the bundle against what a person typed.

    Where media differ, the first one that has the expected list leads. One whose own list is
    damaged is known by its manifest, and its files count: each is held against the one that leads.

    Args:
        root: of the bundle, or of what one medium holds of it.
        expect: the id, or its beginning.
        others: more media of the same bundle.

    Raises:
        UsageError: `root` is not a folder, or `expect` is not the beginning of an id.
        IntegrityError: SHA256SUMS is missing.
        SignatureError: the id of the bundle is not `expect`, or media are of several bundles.
    """
    roots = tuple(dict.fromkeys((root, *others)))
    for place in roots:
        if not place.is_dir():
            raise UsageError("not a folder, expected a bundle", subject=str(place))
    if not (root / SUMS_NAME).exists():
        for below in sorted(root.glob(f"*/{SUMS_NAME}"))[:1]:
            hint = f"did you mean {below.parent}?"
            raise UsageError("not a bundle, but one is in it", subject=str(root), hint=hint)
    ids = {place: _digest_at(place, SUMS_NAME, sums.MAX_SUMS_BYTES) for place in roots}
    named = (one for one in roots if expect is not None and sums.matches_expected(ids[one], expect))
    lead = next(named, root)
    data = read_file(lead, SUMS_NAME, sums.MAX_SUMS_BYTES)
    found = sums.bundle_id(data)
    if expect is not None and not sums.matches_expected(found, expect):
        raise SignatureError(
            f"expected bundle id {expect.strip().lower()}, got {found}",
            subject=SUMS_NAME,
            hint="this is another bundle, or it was changed: compare with the card from the build",
        )
    listing = BundleListing(
        root=lead,
        sums_bytes=data,
        bundle_id=found,
        expected=expect is not None,
        others=tuple(place for place in roots if place != lead),
    )
    spoiled = tuple(place for place in listing.others if ids[place] != found)
    for place in spoiled:
        _check_known(place, listing)
    return replace(listing, spoiled=spoiled)


def _digest_at(place: Path, name: str, most_bytes: int) -> str:
    """Return the digest of a small file of a medium, nothing where it cannot be read."""
    try:
        return sums.bundle_id(read_file(place, name, most_bytes))
    except IntegrityError:
        return ""


def _check_known(place: Path, listing: BundleListing) -> None:
    """Refuse a medium with another list, unless its manifest is of the bundle a person named."""
    manifest = _digest_at(place, MANIFEST_NAME, MAX_MANIFEST_BYTES)
    if not listing.expected or manifest != listing.sums.get(MANIFEST_NAME):
        got = sums.bundle_id(read_file(place, SUMS_NAME, sums.MAX_SUMS_BYTES))
        raise SignatureError(
            f"expected a medium of bundle {listing.bundle_id}, got one of {got}", subject=str(place)
        )


def read_manifest(listing: BundleListing, *, kept: Path | None = None) -> tuple[Manifest, bytes]:
    """Return the manifest and its bytes, of the first medium where they agree with SHA256SUMS.

    Args:
        listing: of the bundle.
        kept: the manifest that an earlier medium brought, where that may be.

    Raises:
        IntegrityError: it is missing, changed, malformed, or names other files than SHA256SUMS.
    """
    expected = listing.sums.get(MANIFEST_NAME, "")
    places = [(root, MANIFEST_NAME) for root in listing.roots]
    if kept is not None:
        places.append((kept.parent, kept.name))
    good = (one for one in places if _digest_at(*one, MAX_MANIFEST_BYTES) == expected)
    data = read_file(*next(good, places[0]), MAX_MANIFEST_BYTES)
    got = sums.bundle_id(data)
    if got != expected:
        message = f"changed, expected sha256 {expected or 'to be listed'}, got {got}"
        hint = COPY_AGAIN
        if kept is not None and expected:
            hint = (
                "every medium of this bundle has it: begin with another one; or on the laptop, "
                f"paste {short_form('need', [expected])} into llava-pack carry BUNDLE --to DIR "
                "--need -"
            )
        raise IntegrityError(message, subject=MANIFEST_NAME, hint=hint)
    manifest = parse_manifest(data)
    carried = {entry.path: entry.sha256 for entry in manifest.files if entry.carried}
    stated = carried | {MANIFEST_NAME: expected}
    if differing := sorted({path for path, _ in stated.items() ^ listing.sums.items()}):
        names = ", ".join(differing[:_SHOWN_DEFECTS])
        raise IntegrityError(f"disagrees with SHA256SUMS about {names}", subject=MANIFEST_NAME)
    return manifest, data


def read_file(root: Path, name: str, most_bytes: int) -> bytes:
    """Return a small file of a bundle, at most one byte more than `most_bytes`.

    Raises:
        IntegrityError: it is missing, no plain file, or cannot be read.
    """
    try:
        with open_file(root, name) as stream:
            return stream.read(most_bytes + 1)
    except OSError as error:
        _pass_on(error)
        hint = "pass the folder of a complete bundle, the one with SHA256SUMS"
        raise IntegrityError(_reason(error), subject=name, hint=hint) from error


def open_file(root: Path, path: str) -> BinaryIO:
    """Open one file of a bundle for reading, unbuffered; never a link, FIFO or device.

    Raises:
        OSError: it cannot be opened, or is not a plain file.
    """
    stream = os.fdopen(os.open(root / path, os.O_RDONLY | files.UNFOLLOWED), "rb", buffering=0)
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return stream
    stream.close()
    raise OSError(0, "not a plain file")


def check(
    root: Path, path: str, promise: tuple[str, int | None], progress: Progress
) -> FileDefect | None:
    """Read one file once, and return what is wrong with it.

    Args:
        root: of the bundle, or of the store.
        path: below `root`.
        promise: sha256 and, where it is known, size in bytes.
        progress: told the bytes.
    """
    sha256, size_bytes = promise
    try:
        with open_file(root, path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != (size if size_bytes is None else size_bytes):
                return FileDefect(path, "size", f"{size_bytes} bytes", f"{size} bytes")
            if size > MAX_FILE_BYTES:
                return FileDefect(path, "size", f"at most {MAX_FILE_BYTES} bytes", f"{size} bytes")
            got = sha256_stream(stream, progress.advance)
    except OSError as error:
        return unreadable(path, error)
    return None if got == sha256 else FileDefect(path, "changed", f"sha256 {sha256}", got)


def unreadable(path: str, error: OSError, expected: str = "a file that can be read") -> FileDefect:
    """Return the defect of a file that cannot be read, where that is not this machine's doing."""
    _pass_on(error)
    return FileDefect(path, "unreadable", expected, _reason(error))


def _pass_on(error: OSError) -> None:
    if error.errno in disk.SHORT:
        raise error


class UnreadableError(Exception):
    """The medium fails while it is read."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Medium:
    """A file that is being read, whose failures are told from those of the file written to."""

    stream: BinaryIO

    def read(self, size_bytes: int) -> bytes:
        """Return the next bytes.

        Raises:
            UnreadableError: they cannot be read.
        """
        try:
            return self.stream.read(size_bytes)
        except OSError as error:
            raise UnreadableError(error) from error


def _reason(error: OSError) -> str:
    return f"cannot be read: {reason_of(error)}"


def refusal(defects: Sequence[FileDefect], *, of: int, hint: str = COPY_AGAIN) -> IntegrityError:
    """Return the error that names the defects of a bundle with `of` files."""
    shown = records.summary([str(defect) for defect in defects], _SHOWN_DEFECTS)
    return IntegrityError(f"{len(defects)} of {of} files differ: {shown}", hint=hint)
