"""An unfinished file: bytes are hashed in the pass that writes them, and survive any kill."""

import hashlib
import os
from types import TracebackType
from typing import Self

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.remote import FetchedFile, GitBlob, RemoteFile, Sha256
from llava_pack.format import files
from llava_pack.format.digests import READ_BYTES
from llava_pack.format.errors import IntegrityError, PackError, SpaceError, UsageError
from llava_pack.format.text import human_bytes


class Part:
    """The part file of one `RemoteFile`; open it only while holding its lock.

    What an earlier run left is hashed once when it is opened, so that the bytes verified are the
    bytes in the file.
    """

    def __init__(self, file: RemoteFile, cache: Cache) -> None:
        self._file = file
        self._cache = cache
        self._path = cache.parts / f"{file.key}.part"
        self._note = cache.parts / f"{file.key}.validator"
        try:
            self._stream = self._path.open("r+b" if self._path.exists() else "w+b", buffering=0)
        except OSError as error:
            raise self._trouble(error) from error
        self._begin()
        while chunk := self._stream.read(READ_BYTES):
            self._count(chunk)
        self.resumed = self.size_bytes > 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    @property
    def validator(self) -> str | None:
        """The ETag, or else the date, that these bytes were served under."""
        try:
            return self._note.read_text("utf-8") or None
        except FileNotFoundError:
            return None

    def restart(self, validator: str | None) -> None:
        """Drop every byte; what follows is served under `validator`."""
        try:
            self._stream.seek(0)
            self._stream.truncate()
            self._note.write_text(validator or "", "utf-8")
        except OSError as error:
            raise self._trouble(error) from error
        self._begin()
        self.resumed = False

    def write(self, chunk: bytes) -> None:
        """Append `chunk`.

        Raises:
            SpaceError: the disk is full; the bytes before are kept.
        """
        rest = memoryview(chunk)
        try:
            while rest:
                written = self._stream.write(rest)
                self._count(rest[:written])
                rest = rest[written:]
        except OSError as error:
            raise self._trouble(error) from error

    def finish(self) -> FetchedFile:
        """Check the bytes against every promise and move them into the cache.

        Raises:
            IntegrityError: they differ; the part is deleted.
        """
        if problem := self._difference():
            self.discard()
            raise IntegrityError(
                f"does not match its listing: {problem}",
                subject=self._file.name,
                hint="run the command again; if it persists, the source has changed or is damaged",
            )
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise self._trouble(error) from error
        self._stream.close()
        sha256, validator = self._sha256.hexdigest(), self.validator
        path = self._cache.adopt(self._path, sha256)
        if not isinstance(self._file.digest, Sha256):
            self._cache.remember(self._file.key, sha256, validator)
        self._note.unlink(missing_ok=True)
        return FetchedFile(path, sha256, self.size_bytes)

    def discard(self) -> None:
        """Delete the part."""
        self._stream.close()
        self._path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _begin(self) -> None:
        self.size_bytes = 0
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(f"blob {self._file.size_bytes}\0".encode(), usedforsecurity=False)

    def _count(self, chunk: bytes | memoryview) -> None:
        self.size_bytes += len(chunk)
        self._sha256.update(chunk)
        if isinstance(self._file.digest, GitBlob):
            self._git.update(chunk)

    def _difference(self) -> str:
        wanted = self._file.size_bytes
        if wanted is not None and wanted != self.size_bytes:
            expected, got = f"{wanted} bytes", f"{self.size_bytes} bytes"
            return f"expected {expected}, got {got}"
        match self._file.digest:
            case Sha256(hex=expected) if expected != self._sha256.hexdigest():
                return f"expected sha256 {expected}, got {self._sha256.hexdigest()}"
            case GitBlob(oid=expected) if expected != self._git.hexdigest():
                return f"expected git blob {expected}, got {self._git.hexdigest()}"
        return ""

    def _trouble(self, error: OSError) -> PackError:
        """Translate a failure of the local disk."""
        if error.errno in files.FULL:
            kept = human_bytes(self.size_bytes)
            return SpaceError(
                f"the disk of the cache is full; {kept} of this file are kept",
                subject=self._file.name,
                hint=f"free space under {self._cache.root}, or set LLAVA_PACK_CACHE, and run again",
            )
        return UsageError(
            f"the cache cannot be written: {error.strerror}",
            subject=str(self._cache.root),
            hint="set LLAVA_PACK_CACHE to a folder that you can write",
        )
