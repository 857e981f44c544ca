"""What a bundle says that it holds, against what is there: every difference, not the first."""

import os
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from llava_pack.format import records
from llava_pack.format.digests import sha256_stream
from llava_pack.format.errors import (
    CannotVerifyError,
    IntegrityError,
    PackError,
    SignatureError,
    UsageError,
)
from llava_pack.format.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from llava_pack.format.progress import Progress
from llava_pack.format.sums import (
    MANIFEST_NAME,
    MAX_SUMS_BYTES,
    SUMS_NAME,
    UNLISTED,
    bundle_id,
    matches_expected,
    parse_sums,
)

COPY_AGAIN = "copy the named files again, then run the same command"
_SHOWN_DEFECTS = 10

Problem = Literal["changed", "missing", "extra", "size", "not-a-file", "unreadable"]


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One difference between a bundle and what it says about itself."""

    path: str
    problem: Problem
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}, expected {self.expected}, got {self.got}"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A bundle whose SHA256SUMS was read, and held against `--expect` where one was given."""

    root: Path
    sums: Mapping[str, str]
    sums_bytes: bytes
    bundle_id: str
    expected: bool
    """The id is the one that a person typed, not only the one that the medium claims."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """The outcome of reading a whole bundle."""

    listing: Listing
    manifest: Manifest | None
    """None where it is among the defects."""
    defects: tuple[Defect, ...]
    size_bytes: int

    def facts(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return {
            "ok": not self.defects,
            "bundle_id": self.listing.bundle_id,
            "expected": self.listing.expected,
            "files": len(self.listing.sums),
            "size_bytes": self.size_bytes,
            "defects": records.encode(self.defects),
        }


def read_listing(root: Path, *, expect: str | None) -> Listing:
    """Read SHA256SUMS, and hold the id of the bundle against what a person typed.

    Raises:
        UsageError: `root` is not a folder, or `expect` is not the beginning of an id.
        IntegrityError: SHA256SUMS is missing or malformed.
        SignatureError: the id of the bundle is not `expect`.
    """
    if not root.is_dir():
        raise UsageError("not a folder, expected a bundle", subject=str(root))
    try:
        with open_file(root, SUMS_NAME) as stream:
            data = stream.read(MAX_SUMS_BYTES + 1)
    except OSError as error:
        raise IntegrityError(
            f"cannot be read: {error.strerror}",
            subject=SUMS_NAME,
            hint="give the folder of a bundle, the one that holds SHA256SUMS",
        ) from error
    found = bundle_id(data)
    if expect is not None and not matches_expected(found, expect):
        raise SignatureError(
            f"expected bundle id {expect.strip().lower()}, got {found}",
            subject=SUMS_NAME,
            hint="this is another bundle, or it was changed: compare with the card of the build",
        )
    sums = parse_sums(data)
    return Listing(
        root=root, sums=sums, sums_bytes=data, bundle_id=found, expected=expect is not None
    )


def trusted_listing(root: Path, *, expect: str | None) -> Listing:
    """Read SHA256SUMS of a bundle that is going to be installed.

    Raises:
        CannotVerifyError: there is no `expect`, so nothing vouches for the bundle.
    """
    if not expect:
        raise CannotVerifyError(
            "there is nothing to verify this bundle against",
            subject=str(root),
            hint=f"llava-pack install {root} --expect ID, with the id from the card of the build",
        )
    return read_listing(root, expect=expect)


def read_manifest(listing: Listing) -> tuple[Manifest, bytes]:
    """Return the manifest and its bytes, once they agree with SHA256SUMS.

    Raises:
        IntegrityError: it is missing, changed, malformed, or names other files than SHA256SUMS.
    """
    if MANIFEST_NAME not in listing.sums:
        raise IntegrityError("not listed in SHA256SUMS", subject=MANIFEST_NAME, hint=COPY_AGAIN)
    try:
        with open_file(listing.root, MANIFEST_NAME) as stream:
            data = stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise IntegrityError(message, subject=MANIFEST_NAME, hint=COPY_AGAIN) from error
    expected, got = listing.sums[MANIFEST_NAME], bundle_id(data)
    if got != expected:
        raise IntegrityError(
            f"changed, expected sha256 {expected}, got {got}",
            subject=MANIFEST_NAME,
            hint=COPY_AGAIN,
        )
    manifest = parse_manifest(data)
    stated = {entry.path: entry.sha256 for entry in manifest.files} | {MANIFEST_NAME: expected}
    if differing := sorted(path for path, _ in stated.items() ^ listing.sums.items()):
        names = ", ".join(dict.fromkeys(differing[:_SHOWN_DEFECTS]))
        raise IntegrityError(f"disagrees with SHA256SUMS about {names}", subject=MANIFEST_NAME)
    return manifest, data


def survey(listing: Listing) -> tuple[Defect, ...]:
    """Compare names and kinds of files, without reading them."""
    present: set[str] = set()
    folders = {path[:at] for path in listing.sums for at in _slashes(path)}
    defects = list(_walk(listing, "", folders, present))
    defects += [
        Defect(path=path, problem="missing", expected="a file", got="nothing")
        for path in listing.sums
        if path not in present
    ]
    return tuple(sorted(defects, key=lambda defect: defect.path))


def _slashes(path: str) -> Iterator[int]:
    return (at for at, char in enumerate(path) if char == "/")


def _walk(listing: Listing, below: str, folders: set[str], present: set[str]) -> Iterator[Defect]:
    with os.scandir(listing.root / below) as entries:
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            listed = path in listing.sums or path in UNLISTED
            if entry.is_dir(follow_symlinks=False):
                if path in folders:
                    yield from _walk(listing, path, folders, present)
                else:
                    yield Defect(path=path, problem="extra", expected="nothing", got="a folder")
            elif not entry.is_file(follow_symlinks=False):
                present.add(path)
                kind = "a link" if entry.is_symlink() else "a device, FIFO or socket"
                yield Defect(path=path, problem="not-a-file", expected="a file", got=kind)
            elif listed:
                present.add(path)
            else:
                yield Defect(path=path, problem="extra", expected="nothing", got="a file")


def open_file(root: Path, path: str) -> BinaryIO:
    """Open one file of a bundle for reading, unbuffered; never a link, FIFO or device.

    Raises:
        OSError: it cannot be opened, or is not a plain file.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    stream = os.fdopen(os.open(root / path, flags), "rb", buffering=0)
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return stream
    stream.close()
    raise OSError(0, "not a plain file")


def examine(
    root: Path, *, expect: str | None, progress: Progress, threads: int | None = None
) -> Examination:
    """Read a whole bundle, each byte once, and report every difference.

    Args:
        root: the bundle.
        expect: the id that a person typed, None to check only that the bundle is whole.
        progress: told the bytes.
        threads: how many files are read at once, None for one each processor.

    Raises:
        UsageError, IntegrityError, SignatureError: as `read_listing`.
    """
    listing = read_listing(root, expect=expect)
    defects = list(survey(listing))
    manifest, sizes = None, dict[str, int]()
    try:
        manifest, _ = read_manifest(listing)
        sizes = {entry.path: entry.size_bytes for entry in manifest.files}
    except IntegrityError as error:
        if MANIFEST_NAME not in {defect.path for defect in defects}:
            told = Defect(
                path=MANIFEST_NAME, problem="changed", expected="a manifest", got=error.message
            )
            defects.append(told)
    known = {defect.path for defect in defects} | {MANIFEST_NAME}
    paths = sorted(set(listing.sums) - known, key=lambda path: -sizes.get(path, 0))
    progress.start("reading the bundle", sum(sizes.values()) or None)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        found = pool.map(lambda path: _check(listing, path, sizes.get(path), progress), paths)
        defects += [defect for defect in found if defect is not None]
    progress.done()
    defects.sort(key=lambda defect: defect.path)
    return Examination(
        listing=listing, manifest=manifest, defects=tuple(defects), size_bytes=sum(sizes.values())
    )


def _check(
    listing: Listing, path: str, size_bytes: int | None, progress: Progress
) -> Defect | None:
    expected = listing.sums[path]
    try:
        with open_file(listing.root, path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size_bytes is not None and size != size_bytes:
                return wrong_size(path, size_bytes, size)
            got = sha256_stream(stream, progress.advance)
    except OSError as error:
        return unreadable(path, error)
    return None if got == expected else changed(path, expected, got)


def wrong_size(path: str, expected: int, got: int) -> Defect:
    """Return the defect of a file that is truncated or has grown."""
    return Defect(path=path, problem="size", expected=f"{expected} bytes", got=f"{got} bytes")


def changed(path: str, expected: str, got: str) -> Defect:
    """Return the defect of a file whose bytes differ."""
    return Defect(path=path, problem="changed", expected=f"sha256 {expected}", got=got)


def unreadable(path: str, error: OSError) -> Defect:
    """Return the defect of a file that the medium does not give back."""
    got = error.strerror or type(error).__name__
    return Defect(path=path, problem="unreadable", expected="a file that can be read", got=got)


def refusal(defects: tuple[Defect, ...], *, of: int) -> PackError:
    """Return the error that names the defects of a bundle with `of` files."""
    shown = "; ".join(str(defect) for defect in defects[:_SHOWN_DEFECTS])
    more = len(defects) - _SHOWN_DEFECTS
    rest = f"; and {more} more" if more > 0 else ""
    count = f"{len(defects)} of {of} files differ" if len(defects) > 1 else "the bundle differs"
    return IntegrityError(f"{count}: {shown}{rest}", hint=COPY_AGAIN)


def verify_bundle(root: Path, *, expect: str | None, progress: Progress) -> Examination:
    """Return the contents of a bundle in which every byte is what it should be.

    Raises:
        IntegrityError: naming every file that is changed, missing, extra or no plain file.
        SignatureError: the id is not the one that was typed.
    """
    found = examine(root, expect=expect, progress=progress)
    if found.defects:
        raise refusal(found.defects, of=len(found.listing.sums))
    return found
