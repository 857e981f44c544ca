"""The gateway's outermost layer: a request as whoever sent it knows it, whatever stands between.

Behind it the fields of ASGI mean what they say: `client` is who asks, `scheme` and Host are what
they asked for, `path` is a route of ours and `root_path` stands before it outside. So the guard
decides on one path, and the routes are reached by the same one.

Source: ASGI specification 3.0, "HTTP Connection Scope".
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from llava_pack.serve.access.forwarded import arrival
from llava_pack.serve.access.public_name import PublicName

_UPSTREAM = "upstream_host"


class PublicAddress:
    """Reads what listed proxies say, and takes what stands before our paths outside off them.

    Args:
        app: what stands behind it.
        name: which proxies are listed, and what we are called.
    """

    def __init__(self, app: ASGIApp, name: PublicName) -> None:
        self._app = app
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        known = _arrived(self._name, scope) if scope["type"] == "http" else scope
        await self._app(known, receive, send)


def upstream_host(scope: Scope) -> str | None:
    """Return by which name a listed proxy asked us, where it was asked for another; else None.

    >>> upstream_host({}) is None
    True
    """
    name = scope.get("state", {}).get(_UPSTREAM)
    return None if name is None else str(name)


def _arrived(name: PublicName, scope: Scope) -> Scope:
    peer = scope.get("client")
    came = arrival(
        name,
        peer=peer[0] if peer else None,
        scheme=scope.get("scheme", "http"),
        headers=scope["headers"],
        path=scope["path"],
    )
    state = dict(scope.get("state", {}))
    headers, asked = scope["headers"], came.host.encode("latin-1")
    hosts = [value for header, value in headers if header == b"host"]
    if len(hosts) == 1 and hosts[0] != asked:
        state[_UPSTREAM] = hosts[0].decode("latin-1")
        headers = [pair if pair[0] != b"host" else (b"host", asked) for pair in headers]
    return {
        **scope,
        "client": (came.client, peer[1] if peer else 0) if came.client else None,
        "scheme": came.scheme,
        "headers": headers,
        "path": came.path,
        "root_path": came.root_path,
        "state": state,
    }
