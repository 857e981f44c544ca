"""What is wanted from elsewhere, and what came of it: values only."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Sha256:
    """The SHA-256 of a file's bytes, 64 lower-case hex digits."""

    hex: str

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.hex):
            raise ValueError(f"not a sha256: {self.hex!r}")

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


@dataclass(frozen=True, slots=True)
class GitBlob:
    """Git's object id of a file: SHA-1 of `blob <size>`, a NUL and the bytes; 40 hex digits."""

    oid: str

    def __post_init__(self) -> None:
        if not _SHA1.fullmatch(self.oid):
            raise ValueError(f"not a git blob id: {self.oid!r}")

    def __str__(self) -> str:
        return f"git-blob:{self.oid}"


Digest = Sha256 | GitBlob


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file to fetch.

    Attributes:
        url: http, https or file.
        name: how messages and progress call it.
        size_bytes: the promised size; None where nobody promised one.
        digest: the promised digest; None where nobody promised one.
        headers: sent to the URL's own origin only, never after a redirect to another; not shown.
    """

    url: str = field(repr=False)
    name: str
    size_bytes: int | None = None
    digest: Digest | None = None
    headers: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.digest, GitBlob) and self.size_bytes is None:
            raise ValueError("a git blob id covers the size: give size_bytes")

    @property
    def key(self) -> str:
        """Names the unfinished file: by content where that is known, else by address."""
        match self.digest:
            case Sha256(hex=digest):
                return f"sha256-{digest}"
            case GitBlob(oid=oid):
                return f"git-{oid}"
            case None:
                return f"url-{hashlib.sha256(self.url.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A verified file in the cache: read-only, shared with every later build."""

    path: Path
    sha256: str
    size_bytes: int


def place(url: str) -> str:
    """Return `url` fit to be shown: no user, password, query or fragment.

    >>> place("https://me:secret@example.org:8443/a/b.whl?signature=1#x")
    'https://example.org:8443/a/b.whl'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def origin(url: str) -> str:
    """Return scheme, host and port of `url`, the unit that headers are trusted to.

    >>> origin("https://me@Example.org/a"), origin("http://127.0.0.1:8000/a")
    ('https://example.org:443', 'http://127.0.0.1:8000')
    """
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://{parts.hostname or ''}:{port}"
