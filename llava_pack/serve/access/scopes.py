"""What a key opens: four scopes, and every route of the gateway under one of them.

A path that is in no row is refused, whoever asks: a route that somebody adds, or that a new version
of a library brings, stays shut until it has a row here. The path is compared as the routers behind
compare it, decoded once and never tidied up; one with a control character is in no row, since `$`
in a router's pattern lets a line feed follow.

Source: docs/reference/http-api.md, "Scopes".
"""

from dataclasses import dataclass
from typing import Literal, get_args

Scope = Literal["ask", "observe", "page", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""`admin` is kept for what changes something over HTTP; no route does that yet."""
LOGIN_PATH = "/login"
CONTROLLER_PATH = "/controller"
LLAVA_PREFIX = "/llava/"
"""Before LLaVA's own routes, with a key in the path, for clients that can send no header."""
LLAVA_ROUTES = frozenset(
    {"refresh_all_workers", "list_models", "get_worker_address", "worker_get_status",
     "worker_generate_stream", "register_worker", "receive_heart_beat"}
)  # fmt: skip
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""A router hands on what its routes have no method for: with others, `/v1` would let it pass."""
_DELETE = 0x7F


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the table.

    Attributes:
        template: how a log names it; never what a client wrote.
        needs: the scope that opens it; None opens it to every key.
        metered: a quota counts it: it makes work for an engine.
        listed: the audit log has a line for each of its requests.
        by_page: the page asks for it too, so a session of a key that opens the page opens it.
    """

    template: str
    needs: Scope | None
    metered: bool = False
    listed: bool = True
    by_page: bool = False


def _rows(needs: Scope | None, *templates: str, metered: bool = False) -> dict[str, Route]:
    return {path: Route(path, needs, metered=metered) for path in templates}


def _page(template: str) -> Route:
    return Route(template, "page", listed=False)


_EXACT = {
    **_rows(None, "/livez", "/health"),
    **_rows("observe", "/readyz", "/startupz", "/metrics"),
    **_rows("observe", "/observe", metered=True),
    **_rows("ask", "/v1/models", "/openapi.json", CONTROLLER_PATH),
    **{
        path: Route(path, "ask", metered=True, by_page=True)
        for path in ("/v1/chat/completions", "/tokenize")
    },
    **{
        f"/{name}": Route(f"/{name}", "ask", metered=name == "worker_generate_stream")
        for name in sorted(LLAVA_ROUTES)
    },
    **_rows("page", LOGIN_PATH),
    "/": _page("/"),
}  # fmt: skip
_ONLY_GET = {**_rows(None, "/v1/health/live"), **_rows("observe", "/v1/health/ready")}
"""With another method, the API's own answer to what it does not have is reached."""
_PREFIXES = {
    "/v1/models/": Route("/v1/models/{name}", "ask"),
    "/v1/": Route("/v1/{rest}", "ask"),
    "/page/": _page("/page/{name}"),
}


def route_of(path: str, method: str = "GET") -> Route | None:
    r"""Return the row that a request is in, None where it is in none.

    >>> route_of("/metrics").needs, route_of("/llava/k3y/list_models").template
    ('observe', '/llava/{key}/list_models')
    >>> [route_of(path) for path in ("/metrics\n", "//metrics", "/METRICS", "/monitoring")]
    [None, None, None, None]
    """
    if method not in METHODS or _is_odd(path):
        return None
    if path.startswith(LLAVA_PREFIX):
        route = path.removeprefix(LLAVA_PREFIX).partition("/")[2]
        row = _EXACT[f"/{route}"] if route in LLAVA_ROUTES else None
        return row and Route(f"{LLAVA_PREFIX}{{key}}/{route}", row.needs, metered=row.metered)
    if found := _EXACT.get(path) or (_ONLY_GET.get(path) if method == "GET" else None):
        return found
    return next((row for prefix, row in _PREFIXES.items() if path.startswith(prefix)), None)


def _is_odd(path: str) -> bool:
    """Return whether a path has a character that no route has, and a pattern may overlook."""
    return any(char < " " or ord(char) == _DELETE for char in path)
