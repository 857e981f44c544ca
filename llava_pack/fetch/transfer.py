"""One file over HTTP or from a folder into its part, resumed where the server allows it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.hub_cache import HubCache, take
from llava_pack.fetch.locks import Stopped, exclusive
from llava_pack.fetch.part import Part
from llava_pack.fetch.patience import Interrupted, Patience
from llava_pack.fetch.remote import FetchedFile, RemoteFile, Sha256, place
from llava_pack.fetch.transport import Transport
from llava_pack.format.digests import READ_BYTES
from llava_pack.format.errors import FetchError, IntegrityError

_GOES_ON = "run the command again: it resumes where it stopped"
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What every transfer of one `download_all` shares; thread-safe."""

    transport: Transport
    cache: Cache
    hub_cache: HubCache
    patience: Patience
    stop: Event
    count: Callable[[int], None]
    taken: Callable[[int], None]

    def fetch(self, file: RemoteFile) -> FetchedFile:
        """Return `file` from the cache, or fetch it there.

        Raises:
            Stopped: another transfer failed, or the person asked to stop.
            IntegrityError: the bytes are not the promised ones.
            PackError: see `llava_pack.fetch.transport` and `llava_pack.fetch.part`.
        """
        if found := cached(self.cache, file):
            self.count(found.size_bytes)
            return found
        with exclusive(self.cache.parts / f"{file.key}.lock", self.stop):
            if found := cached(self.cache, file):  # another process was quicker
                self.count(found.size_bytes)
                return found
            return self._taken(file) or self._fetch_afresh(file)

    def _taken(self, file: RemoteFile) -> FetchedFile | None:
        """Return `file` out of the Hub's cache, None where it does not have it."""
        held = self.hub_cache.holds(file)
        got = None if held is None else take(file, held, self.cache, self._count_on)
        if got is not None:
            self.taken(got.size_bytes)
        return got

    def _count_on(self, size_bytes: int) -> None:
        if self.stop.is_set():
            raise Stopped
        self.count(size_bytes)

    def _fetch_afresh(self, file: RemoteFile) -> FetchedFile:
        """Fetch into the part; bytes of an earlier run are given up when they spoil the whole."""
        run = self._copy if urlsplit(file.url).scheme == "file" else self._persist
        with Part(file, self.cache) as part:
            inherited = part.resumed
            self.count(part.size_bytes)
            try:
                return run(file, part)
            except IntegrityError:
                if not inherited or not part.resumed:
                    raise
            self.count(-part.size_bytes)
        with Part(file, self.cache) as part:
            return run(file, part)

    def _copy(self, file: RemoteFile, part: Part) -> FetchedFile:
        self._restart(part, None)
        try:
            with Path(url2pathname(urlsplit(file.url).path)).open("rb") as source:
                while chunk := source.read(READ_BYTES):
                    self._keep(part, chunk)
        except OSError as error:
            raise FetchError(f"cannot be read: {error.strerror}", subject=file.name) from error
        return part.finish()

    def _persist(self, file: RemoteFile, part: Part) -> FetchedFile:
        failures, most = 0, part.size_bytes
        while True:
            try:
                return self._attempt(file, part)
            except Interrupted as broken:
                if self.stop.is_set():
                    raise Stopped from broken
                failures = 1 if part.size_bytes > most else failures + 1
                most = max(most, part.size_bytes)
                if failures >= self.patience.attempts:
                    raise broken.failure from broken
                self._pause(failures, broken.wait_s)

    def _pause(self, failures: int, asked_s: float) -> None:
        if self.stop.wait(self.patience.pause_s(failures, asked_s)):
            raise Stopped

    def _attempt(self, file: RemoteFile, part: Part) -> FetchedFile:
        if part.size_bytes and part.size_bytes == file.size_bytes and file.digest:
            return part.finish()  # killed between the last byte and the rename
        known = self.cache.recall(file.key) if file.digest is None else None
        with self.transport.open_stream(file, _conditions(file, part, known)) as response:
            if response.status_code == 304 and known:
                self.count(known[0].stat().st_size)
                part.discard()
                return FetchedFile(known[0], known[1], known[0].stat().st_size)
            total = self._accept(file, part, response)
            for chunk in response.iter_raw():  # as it arrives: a kill loses nothing that came
                self._keep(part, chunk)
        if total is not None and part.size_bytes < total:
            expected, got = f"{total} bytes", f"{part.size_bytes} bytes"
            raise Interrupted(
                FetchError(
                    f"truncated: expected {expected}, got {got}",
                    subject=file.name,
                    hint=_GOES_ON,
                )
            )
        return part.finish()

    def _accept(self, file: RemoteFile, part: Part, response: httpx.Response) -> int | None:
        """Make the part fit the answer; return the whole file's size, where anybody says it."""
        validator = _validator(response)
        match = CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if response.status_code == 206 and match and int(match[1]) == part.size_bytes:
            if part.validator is not None and part.validator != validator:
                self._restart(part, None)
                failure = FetchError(
                    "changed at its source during the download", subject=file.name, hint=_GOES_ON
                )
                raise Interrupted(failure)
            total = None if match[3] == "*" else int(match[3])
        elif response.status_code == 200:
            self._restart(part, validator)
            total = _length(response)
        else:  # a range that does not fit, or 416: what we have is not a beginning of this file
            self._restart(part, None)
            failure = FetchError(
                f"{place(str(response.url))} returned a range that was not requested",
                subject=file.name,
                hint=_GOES_ON,
            )
            raise Interrupted(failure)
        if total is not None and file.size_bytes is not None and total != file.size_bytes:
            expected, offered = f"{file.size_bytes} bytes", f"{total} bytes"
            part.discard()
            raise IntegrityError(
                f"expected {expected}, the source offers {offered}",
                subject=file.name,
                hint="the source has changed, or a proxy answered in its place",
            )
        return file.size_bytes if total is None else total

    def _restart(self, part: Part, validator: str | None) -> None:
        self.count(-part.size_bytes)
        part.restart(validator)

    def _keep(self, part: Part, chunk: bytes) -> None:
        if self.stop.is_set():
            raise Stopped
        part.write(chunk)
        self.count(len(chunk))


def cached(cache: Cache, file: RemoteFile) -> FetchedFile | None:
    """Return what the cache already holds under the file's promised digest."""
    match file.digest:
        case Sha256(hex=sha256):
            path = cache.path(sha256)
        case None:
            return None
        case _:
            path, sha256, _ = cache.recall(file.key) or (None, "", None)
    return FetchedFile(path, sha256, path.stat().st_size) if path else None


def _conditions(
    file: RemoteFile, part: Part, known: tuple[Path, str, str | None] | None
) -> dict[str, str]:
    """Return the headers that ask for the rest of `part`, or whether `known` is still current."""
    if not part.size_bytes:
        return {"If-None-Match": known[2]} if known and known[2] and '"' in known[2] else {}
    if part.validator is not None:
        return {"Range": f"bytes={part.size_bytes}-", "If-Range": part.validator}
    return {"Range": f"bytes={part.size_bytes}-"} if file.digest else {}


def _validator(response: httpx.Response) -> str | None:
    """Return what identifies these exact bytes: a strong ETag, else their date.

    Source: RFC 9110, section 13.1.5 (If-Range takes a strong validator).
    """
    etag = response.headers.get("etag", "")
    if etag.startswith('"'):
        return str(etag)
    date = response.headers.get("last-modified", "")
    return str(date) or None


def _length(response: httpx.Response) -> int | None:
    text = response.headers.get("content-length", "")
    return int(text) if text.isdecimal() else None
