"""The wheels that a bundle leaves out: fetched from the package index that was named, only there.

Which bytes they are, the bundle's manifest says; an index is asked where they lie.
Source: PEP 503, the simple repository API; RFC 9110, ranges and redirects.
"""

import base64
import functools
import html
import re
import ssl
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from llava_pack.format import files
from llava_pack.format.errors import (
    AccessError,
    FetchError,
    IntegrityError,
    NetworkError,
    RecipeError,
    UsageError,
    reason_of,
)
from llava_pack.format.manifest import FileEntry
from llava_pack.format.progress import Progress, Silent
from llava_pack.target import inventory, silence
from llava_pack.target.store import Store

_LINK = re.compile(r"""<a\s[^>]*?href\s*=\s*["']([^"']*)""", re.IGNORECASE)
_PIECE_BYTES = 1024 * 1024
_TIMEOUT_S = 60
_TRIES = 3
_REDIRECTS = 5
_MOVED = (301, 302, 303, 307, 308)
_ABSENT = (403, 404, 410)  # an index kept on S3 says 403 of a project that it has not
_AUTHORITIES = ("certs/ca-certificates.crt", "certs/ca-bundle.crt", "ca-bundle.pem", "cert.pem")
"""Below /etc/ssl, as systems keep them; the Python that a bundle carries looks at one alone."""
_LOGIN = "give its user and password: --index FILE, a file of mode 0600 with the whole URL"
_Door = tuple[str, str, int]
_AGAIN = "run the same command again: it resumes where it stopped"


@dataclass(frozen=True, kw_only=True)
class NamedIndexes:
    """What a person named on the command line; nobody else is asked."""

    urls: tuple[str, ...] = ()
    """Of indexes, without user and password, each with a slash at its end."""
    hosts: tuple[str, ...] = ()
    logins: Mapping[_Door, str] = field(default_factory=dict, repr=False)
    """By scheme, host and port: what is sent there, and nowhere else, as Authorization."""

    def locate(self, entries: Iterable[FileEntry]) -> dict[str, str]:
        """Return the address of each wheel, by its path in the bundle.

        Raises:
            AccessError: an index asks for a password, or for another one, or refuses everything.
            FetchError: an index fails.
            NetworkError: a host cannot be reached, or was not named.
            RecipeError: no index has one of them; all such are named.
        """
        said: set[int] = set()
        found = {entry.path: self._find(entry.path.rpartition("/")[2], said) for entry in entries}
        if said == {403}:
            message = "answers 403 for every project that was asked for"
            raise AccessError(message, subject=", ".join(self.urls), hint=_LOGIN)
        if absent := [path.rpartition("/")[2] for path, link in found.items() if link is None]:
            raise RecipeError(
                f"expected every wheel of the lock there, got none named {', '.join(absent)}",
                subject=", ".join(self.urls),
                hint="add the index that has it with another --index, or build the bundle with its "
                "wheels: leave out --without-wheels",
            )
        return {path: link for path, link in found.items() if link is not None}

    def fetch(
        self,
        entries: Collection[FileEntry],
        links: Mapping[str, str],
        store: Store,
        progress: Progress,
    ) -> None:
        """Bring wheels into the store, each held against its digest.

        What came before a connection broke is kept, and the next run goes on behind it.

        Raises:
            IntegrityError: a wheel is another one than the manifest promises.
            PackError: as `locate`.
        """
        size_bytes = sum(entry.size_bytes for entry in entries)
        progress.start(f"fetching wheels from {', '.join(self.hosts)}", size_bytes)
        for entry in entries:
            final = store.path(entry.sha256)
            final.parent.mkdir(parents=True, exist_ok=True)
            part = final.with_suffix(".part")
            self._complete(links[entry.path], part, entry.size_bytes, progress)
            promise = (entry.sha256, entry.size_bytes)
            if defect := inventory.check(part.parent, part.name, promise, Silent()):
                part.unlink()
                raise IntegrityError(
                    f"expected sha256 {entry.sha256}, got {defect.got}",
                    subject=f"{entry.path} from {_host(links[entry.path])}",
                    hint=f"if it came in parts, {_AGAIN}; else name another index with --index",
                )
            part.chmod(0o444)
            files.sync(part)
            part.rename(final)
        progress.done()

    def _complete(self, link: str, part: Path, size_bytes: int, progress: Progress) -> None:
        """Fetch what a file still lacks; a connection that breaks after some bytes is no matter."""
        idle = 0
        with part.open("ab") as file:
            progress.advance(file.tell())
            while (have := file.tell()) < size_bytes:
                answer, _ = self._get(link, have)
                if not _found(answer, link):
                    message = f"answers {answer.status} for a file that it lists"
                    raise FetchError(message, subject=_host(link), hint=_AGAIN)
                follows = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
                if have and not follows:
                    file.seek(0)
                    file.truncate()
                    progress.advance(-have)
                before = file.tell()
                with answer:
                    for piece in _pieces(answer, size_bytes - before) if have == before else ():
                        file.write(piece)
                        progress.advance(len(piece))
                idle = 0 if file.tell() > before else idle + 1
                if idle == _TRIES:
                    message = f"the connection breaks after {have} of {size_bytes} bytes"
                    raise FetchError(message, subject=_host(link), hint=_AGAIN)

    def _find(self, name: str, said: set[int]) -> str | None:
        """Return where a wheel is, None where no index has it; add what they answer to `said`."""
        project = re.sub(r"[-_.]+", "-", name.partition("-")[0]).lower()
        for index in self.urls:
            answer, page = self._get(f"{index}{project}/")
            with answer, _explained(page):
                body = answer.read() if _found(answer, page) else b""
            said.add(answer.status)
            for href in _LINK.findall(body.decode("utf-8", "replace")):
                with suppress(ValueError):  # a link that is no address is not the one
                    link = urljoin(page, html.unescape(href)).partition("#")[0]
                    if unquote(urlsplit(link).path.rpartition("/")[2]) == name:
                        return link
        return None

    def _get(self, url: str, begin: int = 0) -> tuple[HTTPResponse, str]:
        """Return an answer from byte `begin` on, and its address after redirects."""
        for _ in range(_REDIRECTS):
            parts = urlsplit(url)
            if parts.hostname not in self.hosts:
                message = "the index leads there, which nobody named"
                hint = f"if its files are kept there: --index-host {parts.hostname}"
                raise NetworkError(message, subject=parts.hostname or url, hint=hint)
            headers = {"Accept": "text/html, */*;q=0.1", "User-Agent": "llava-pack"}
            if begin:
                headers["Range"] = f"bytes={begin}-"
            with _explained(url):
                if login := self.logins.get(_door(parts)):
                    headers["Authorization"] = login
                answer = _ask(parts, headers)
                if answer.status not in _MOVED:
                    return answer, url
                answer.close()
                url = urljoin(url, answer.headers.get("Location", ""))
        raise FetchError("redirects without an end", subject=_host(url), hint="name another index")


NOBODY = NamedIndexes()


def named(texts: Sequence[str], hosts: Sequence[str]) -> NamedIndexes:
    """Return the indexes of a command line.

    Args:
        texts: URLs, perhaps with user and password, or files that hold one each.
        hosts: other hosts that the indexes keep their files on.

    Raises:
        UsageError: one is neither.
    """
    logins: dict[_Door, str] = {}
    urls: list[str] = []
    named_hosts = [host.lower() for host in hosts]
    for text in texts:
        try:
            url = text if "://" in text else Path(text).read_text(encoding="utf-8").strip()
            parts = urlsplit(url)
            usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
            usable = usable and not (parts.query or parts.fragment)  # nothing of them would be sent
        except (OSError, ValueError):
            usable = False
        if not usable:  # its text may hold a password
            message = "expected the URL of a package index, without ? and #, or a file with one"
            hint = "for example --index https://mirror.example/simple"
            raise UsageError(message, subject="--index", hint=hint)
        login, _, place = parts.netloc.rpartition("@")
        if login:
            code = base64.b64encode(unquote(login).encode()).decode()
            logins[_door(parts)] = f"Basic {code}"
        urls.append(f"{parts.scheme}://{place}{parts.path.rstrip('/')}/")
        named_hosts.append(parts.hostname or "")
    if hosts and not texts:
        hint = "add --index URL, or leave it out"
        raise UsageError("there is no index that it belongs to", subject="--index-host", hint=hint)
    return NamedIndexes(urls=tuple(urls), hosts=tuple(dict.fromkeys(named_hosts)), logins=logins)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException, ValueError) as error:
        message = f"cannot be reached: {reason_of(error)}"
        hint = "check --index: this machine has to reach it without a proxy, and trust it"
        raise NetworkError(message, subject=_host(url), hint=hint) from error


def _door(parts: SplitResult) -> _Door:
    return (
        parts.scheme,
        parts.hostname or "",
        parts.port or (443 if parts.scheme == "https" else 80),
    )


def _ask(parts: SplitResult, headers: Mapping[str, str]) -> HTTPResponse:
    scheme, host, port = _door(parts)
    stream = silence.connect(host, port, _TIMEOUT_S)
    connection = HTTPConnection(host, port)
    if scheme == "https":
        connection = HTTPSConnection(host, port, context=_authorities())
        stream = _authorities().wrap_socket(stream, server_hostname=host)
    target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    with stream:  # what answers keeps it open until it is closed itself
        connection.sock = stream  # so it looks up no name, and knows no proxy
        connection.request("GET", target, headers={**headers, "Connection": "close"})
        return connection.getresponse()


@functools.cache
def _authorities() -> ssl.SSLContext:
    context = ssl.create_default_context()
    for name in _AUTHORITIES:
        with suppress(OSError):
            context.load_verify_locations(f"/etc/ssl/{name}")
    return context


def _found(answer: HTTPResponse, url: str) -> bool:
    """Say whether an answer has what was asked for, False where there is no such thing."""
    if answer.status in {200, 206} or answer.status in _ABSENT:
        return answer.status not in _ABSENT
    message = f"answers {answer.status} {answer.reason}"
    if answer.status == 401:
        raise AccessError(message, subject=_host(url), hint=_LOGIN)
    raise FetchError(message, subject=_host(url), hint=_AGAIN)


def _pieces(answer: HTTPResponse, most: int) -> Iterator[bytes]:
    """Yield what comes, up to the end or to where the connection breaks."""
    with suppress(OSError, HTTPException):
        while most > 0 and (piece := answer.read(min(most, _PIECE_BYTES))):
            most -= len(piece)
            yield piece


def _host(url: str) -> str:
    return urlsplit(url).netloc
