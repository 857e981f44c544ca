"""What is answered where no route is, or none with that method; the innermost layer.

A router alone would hand a path of the API with another method on to the page, which stands
behind it and takes every path.
"""

from collections.abc import Sequence

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from llava_pack.serve.access.scopes import METHODS, route_of
from llava_pack.serve.errors import no_such_route, wrong_method


class KnownRoutes:
    """Lets a request through to the API's routes, and the page's paths to the page.

    Args:
        app: what stands behind it.
        routes: of the API.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or self._has(scope, scope["method"]):
            await self._app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        if methods := sorted(each for each in METHODS if self._has(scope, each)):
            allowed = [*methods, "HEAD"] if "GET" in methods else methods
            await wrong_method(method, path, sorted(set(allowed)))(scope, receive, send)
        elif (row := route_of(path, method)) is not None and row.needs == "page":
            await self._app(scope, receive, send)
        else:
            await no_such_route(method, path)(scope, receive, send)

    def _has(self, scope: Scope, method: str) -> bool:
        asked = {**scope, "method": method}
        return any(route.matches(asked)[0] is Match.FULL for route in self._routes)
