"""What web pages of other origins are told: that they may ask, with a key of their own.

Only of origins that `--allow-origin` lists, and never with cookies. Which headers a page may send
is not listed: client libraries add some with every version, and none that a page can set opens
anything here. Only what a proxy speaks by stays shut to pages.

Source: Fetch, "HTTP extensions" and "CORS-preflight request".
"""

import re
from collections.abc import Iterator, Mapping

from starlette.responses import Response

from llava_pack.serve.access.public_name import PublicName

_METHODS = "GET, HEAD, POST, OPTIONS"
_MAX_AGE_S = 600
_MAX_HEADERS = 64
_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}", re.ASCII)
_OF_PROXIES = ("forwarded", "x-forwarded-", "x-real-ip", "host", "cookie")
_READABLE = b"X-Request-Id, Retry-After"
"""Headers of an answer that client libraries look for."""


def cors_headers(name: PublicName, origin: str) -> list[tuple[bytes, bytes]]:
    """Return what every answer says to the page that asked for it.

    Args:
        name: which origins are listed.
        origin: of the page; empty where no page asked.
    """
    if not name.origins:
        return []
    vary = (b"vary", b"Origin")
    if not name.lists(origin):
        return [vary]
    return [
        vary,
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", _READABLE),
    ]


def preflight_answer(headers: Mapping[str, str]) -> Response:
    """Return what a listed page may ask; the same for every path, so that it tells of none."""
    allowed = {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Allow-Headers": ", ".join(_wanted(headers)),
        "Access-Control-Max-Age": str(_MAX_AGE_S),
    }
    if headers.get("access-control-request-private-network") == "true":
        allowed["Access-Control-Allow-Private-Network"] = "true"
    return Response(status_code=204, headers=allowed)


def _wanted(headers: Mapping[str, str]) -> Iterator[str]:
    names = headers.get("access-control-request-headers", "").lower().split(",")
    for name in (name.strip() for name in names[:_MAX_HEADERS]):
        if _TOKEN.fullmatch(name) and not name.startswith(_OF_PROXIES):
            yield name
