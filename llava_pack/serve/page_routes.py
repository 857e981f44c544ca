"""Which routes of the page's library are open, and for what: everything else is not there.

The library brings some seventy routes: a proxy, a fetcher of addresses, an editor of source code,
a history on a public site. The page needs thirteen. What is not listed here is answered with 404
before the library hears of it, so that a new version of it opens nothing by itself.

Source: gradio/routes.py names the routes; a test holds every one of them against this list.
"""

import re
from dataclasses import dataclass
from typing import Literal

Use = Literal["document", "public", "file", "upload", "run", "join", "stream", "cancel", "reset"]
"""What a route is for, and so what is checked before it:

document: the page itself; a browser gets its cookie with it.
public: scripts, styles and fonts of the library, the same for everybody.
file: a picture; one's own, or an example.
upload: a picture comes in.
run: an event that is answered at once.
join: an event that waits in the queue, and whose answer comes by `stream`.
stream: what the queue has to say to one's own session.
cancel: one's own event of one's own session ends.
reset: the page says that it has ended one; the library does nothing about it.
"""
# A name without a leading dot, so that no segment climbs or is hidden.
_NAME = r"[A-Za-z0-9_@][A-Za-z0-9_@.+-]{0,199}"
_NAMES = rf"(?:{_NAME}/){{0,8}}{_NAME}"


@dataclass(frozen=True, kw_only=True)
class PageRoute:
    """An open route."""

    method: str
    template: str
    """As the library writes it."""
    path: re.Pattern[str]
    """Which of its paths are open; a group `name` is what a handler needs of it."""
    use: Use
    query: frozenset[str] = frozenset()
    """What of the query is passed on."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A route that a request goes to."""

    use: Use
    name: str
    """The part of the path that a handler needs; empty where there is none."""
    query: frozenset[str]


def _open(method: str, template: str, path: str, use: Use, query: str = "") -> PageRoute:
    return PageRoute(
        method=method,
        template=template,
        path=re.compile(path, re.ASCII),
        use=use,
        query=frozenset(query.split()),
    )


OPEN_ROUTES = (
    _open("GET", "/", "/", "document"),
    _open("HEAD", "/", "/", "document"),
    _open("GET", "/assets/{path:path}", f"/assets/{_NAMES}", "public"),
    _open("GET", "/static/{path:path}", f"/static/{_NAMES}", "public"),
    _open("GET", "/theme.css", r"/theme\.css", "public", "v"),
    _open("GET", "/favicon.ico", r"/favicon\.ico", "public"),
    _open("GET", "/gradio_api/file={path_or_url:path}", "/gradio_api/file=(?P<name>/.+)", "file"),
    _open("POST", "/gradio_api/upload", "/gradio_api/upload", "upload"),
    _open("POST", "/gradio_api/run/{api_name}", "/gradio_api/run/predict", "run"),
    _open("POST", "/gradio_api/queue/join", "/gradio_api/queue/join", "join"),
    _open("GET", "/gradio_api/queue/data", "/gradio_api/queue/data", "stream", "session_hash"),
    _open("POST", "/gradio_api/cancel", "/gradio_api/cancel", "cancel"),
    _open("POST", "/gradio_api/reset", "/gradio_api/reset", "reset"),
)


def find_route(method: str, path: str) -> Found | None:
    """Return the open route of a request, None where there is none.

    Args:
        method: as it came.
        path: as it came, decoded once.

    >>> find_route("GET", "/gradio_api/file=/tmp/a.png").name
    '/tmp/a.png'
    >>> find_route("GET", "/gradio_api/file=http://localhost/a.png"), find_route("GET", "/config")
    (None, None)
    """
    for route in OPEN_ROUTES:
        if route.method == method and (match := route.path.fullmatch(path)) is not None:
            name = match.groupdict().get("name", "")
            return Found(use=route.use, name=name, query=route.query)
    return None
