"""What a key opens: four scopes, and every route of the gateway under one of them.

A path that is in no row is refused, whoever asks: a route that somebody adds, or that a new version
of a library brings, stays shut until it has a row here. The path is compared as the routers behind
compare it: decoded once, made `canonical` before anybody looks at it, and never tidied up
afterwards; one with a control character is in no row, since `$`
in a router's pattern lets a line feed follow.

Source: docs/reference/http-api.md, "Scopes".
"""

import re
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
OLLAMA_MANAGEMENT = ("pull", "push", "create", "copy", "delete", "embed", "embeddings")
"""Routes of Ollama that are answered, and do nothing here."""
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
    **_rows("ask", "/v1/completions", "/v1/responses", "/api/chat", "/api/generate", metered=True),
    **_rows("ask", "/api/version", "/api/tags", "/api/ps", "/api/show"),
    **_rows("ask", *(f"/api/{name}" for name in OLLAMA_MANAGEMENT)),
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
"""With another method, what there is not is told."""
_MODELS = "/v1/models/"
_DOUBLED = re.compile(r"^(?:/v1)+(?=/v1/)")
_PREFIXES = {
    _MODELS: Route("/v1/models/{name}", "ask"),
    "/v1/": Route("/v1/{rest}", "ask"),
    "/api/": Route("/api/{rest}", "ask"),
    "/page/": _page("/page/{name}"),
}
FIRST_SEGMENTS = frozenset(
    path.split("/")[1] for path in (*_EXACT, *_ONLY_GET, *_PREFIXES, LLAVA_PREFIX)
) - {""}
"""What paths of ours begin with, and what a proxy puts before them must not."""


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


def canonical(path: str) -> str:
    """Return the path of a route that a client means: with `/v1` once, and no slash at the end.

    Clients join a base URL and a path in every way there is. Whoever judges a request sees what
    the routers see.

    >>> canonical("/chat/completions"), canonical("/v1/v1/models/"), canonical("/models/llava")
    ('/v1/chat/completions', '/v1/models', '/v1/models/llava')
    >>> canonical("/v1/models/a/"), canonical("//metrics"), canonical("/static/")
    ('/v1/models/a/', '//metrics', '/static/')
    """
    once = _DOUBLED.sub("", path)
    for meant in (once, once.removesuffix("/")):
        for known in (meant, f"/v1{meant}"):
            if (row := _EXACT.get(known) or _ONLY_GET.get(known)) and row.needs != "page":
                return known
    return f"/v1{once}" if f"/v1{once}".startswith(_MODELS) else once


API_PATHS = tuple(path for path in _EXACT if path.startswith(("/v1/", "/tokenize", "/api/")))
"""What a client that asked for something else is told."""


def names_nothing(route: Route | None) -> bool:
    """Return whether a row stands for no route: what was asked for is not there.

    >>> names_nothing(route_of("/v1/embeddings")), names_nothing(route_of("/v1/models"))
    (True, False)
    """
    return route is None or route.template in {"/v1/{rest}", "/api/{rest}"}


def _is_odd(path: str) -> bool:
    """Return whether a path has a character that no route has, and a pattern may overlook."""
    return any(char < " " or ord(char) == _DELETE for char in path)
