"""The page's files, read once: each with its type, a short digest, and its bytes compressed.

They are served from memory by their name, so no path of a request ever reaches a file system.
"""

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "static"
FRONT = "index.html"
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Only files of this server run, nothing inline does, and no text can become markup."""
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_TAG_CHARS = 20
_BEST = 9
_NOT_AT_ALL = re.compile(r"q=0(\.0{0,3})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFile:
    """One file of the page.

    Attributes:
        content: its bytes.
        compressed: the same for a client that takes gzip.
        media_type: what it is.
        tag: its entity tag; weak, since it is the same for both forms.
    """

    content: bytes
    compressed: bytes
    media_type: str
    tag: str

    def answer(self, request: Request) -> Response:
        """Return it, or that the client has it already. Source: RFC 9110, 13.1.2 and 12.5.3."""
        headers = {
            "Cache-Control": "private, no-cache",
            "Content-Security-Policy": CONTENT_POLICY,
            "ETag": self.tag,
            "Vary": "Accept-Encoding",
        }
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if _takes_gzip(request.headers.get("accept-encoding", "")):
            headers["Content-Encoding"] = "gzip"
            return Response(self.compressed, media_type=self.media_type, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def page_files(folder: Path = FOLDER) -> Mapping[str, PageFile]:
    """Return the files of a folder by name.

    >>> sorted(page_files())[:2]
    ['api.js', 'app.js']
    """
    return {path.name: _page_file(path) for path in sorted(folder.iterdir())}


def _takes_gzip(accepted: str) -> bool:
    """Return whether a client takes gzip. Source: RFC 9110, 12.5.3 and 12.4.2.

    >>> [_takes_gzip(each) for each in ("br, gzip;q=0.5", "gzip;q=0.0, br")]
    [True, False]
    """
    for each in accepted.lower().split(","):
        coding, _, weight = (part.strip() for part in each.partition(";"))
        if coding == "gzip":
            return _NOT_AT_ALL.fullmatch(weight) is None
    return False


def _page_file(path: Path) -> PageFile:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:_TAG_CHARS]
    return PageFile(
        content=content,
        compressed=gzip.compress(content, _BEST, mtime=0),
        media_type=_TYPES[path.suffix],
        tag=f'W/"{digest}"',
    )
