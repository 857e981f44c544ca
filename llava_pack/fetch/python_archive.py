"""A standalone CPython that a person gives: checked before it is carried anywhere."""

import hashlib
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from llava_pack.fetch.remote import RemoteFile, Sha256
from llava_pack.format.errors import IntegrityError, UsageError

_LIBRARY = re.compile(r"python/lib/python(3\.\d+)/os\.py")
_VERSION = re.compile(r"cpython-(3\.\d+\.\d+)")
_HINT = "use an install_only.tar.gz of python-build-standalone: its top folder is python/"


@dataclass(frozen=True, kw_only=True)
class PythonArchive:
    """An archive whose layout was looked at.

    Attributes:
        version: for example 3.11.9, or 3.11 where its name does not tell.
    """

    path: Path
    version: str
    sha256: str

    @property
    def minor(self) -> str:
        """Return the minor version, for example 3.11."""
        return ".".join(self.version.split(".")[:2])

    def file(self, arch: str) -> RemoteFile:
        """Return what the downloader is asked for."""
        return RemoteFile(
            url=self.path.as_uri(),
            name=f"cpython-{self.version}-{arch}-unknown-linux-gnu.tar.gz",
            size_bytes=self.path.stat().st_size,
            digest=Sha256(self.sha256),
        )


def open_archive(path: Path, expected: str | None = None) -> PythonArchive:
    """Return an archive in the standalone layout: `python/bin/python3` and its library.

    Args:
        path: a .tar.gz.
        expected: the SHA-256 that it must have, None where nobody promised one.

    Raises:
        UsageError: it cannot be read, or has another layout.
        IntegrityError: it has another digest.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if expected is not None and digest != expected.lower():
            raise IntegrityError(f"expected sha256 {expected}, got {digest}", subject=path.name)
        with tarfile.open(path, "r:gz") as archive:
            names = set(archive.getnames())
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UsageError(
            f"is not a .tar.gz archive: {error}", subject=str(path), hint=_HINT
        ) from error
    minors = {match[1] for name in names if (match := _LIBRARY.fullmatch(name))}
    strangers = sorted(name for name in names if name.split("/")[0] != "python")
    if strangers or "python/bin/python3" not in names or len(minors) != 1:
        found = strangers[0] if strangers else "no python/bin/python3 with one library"
        raise UsageError(f"expected python/bin/python3, got {found}", subject=path.name, hint=_HINT)
    (minor,) = minors
    named = _VERSION.search(path.name)
    full = named[1] if named and named[1].startswith(f"{minor}.") else minor
    return PythonArchive(path=path.absolute(), version=full, sha256=digest)
