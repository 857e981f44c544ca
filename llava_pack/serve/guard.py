"""The gateway's outer layers, as plain ASGI: errors with an id, and access.

Outermost first: `Boundary` numbers every request, adds the security headers and turns what
nobody caught into a 500 that tells nothing, and counts what was refused; `Guard` asks the access
policy.

Source: ASGI specification 3.0 (HTTP and WebSocket messages).
"""

import logging
import secrets
import time
from collections.abc import Iterable

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llava_pack.format.text import visible
from llava_pack.serve.access import LLAVA_PREFIX, LOGIN_PATH, AccessPolicy
from llava_pack.serve.caller import is_known
from llava_pack.serve.failures import error_response, internal_error, plain_error
from llava_pack.serve.login import PAGE_PATHS, LoginPage
from llava_pack.serve.refusals import Refusals, route_of

_log = logging.getLogger(__name__)
_ROUTE_CHARS = 80
# Nothing is loaded from outside, and nothing that a model writes can make the page do so.
_CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "media-src 'self' data: blob:; worker-src 'self' blob:; connect-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _CONTENT_POLICY.encode()),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


class Boundary:
    """Numbers requests, adds headers, and answers for what nobody caught."""

    def __init__(self, app: ASGIApp, refusals: Refusals | None = None) -> None:
        self._app = app
        self._refusals = refusals or Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.monotonic()
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        began = False

        async def numbered(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                self._note(scope, request_id, message["status"], time.monotonic() - began_s)
                message = {**message, "headers": _with_ours(message["headers"], request_id)}
            await send(message)

        try:
            await self._app(scope, receive, numbered)
        except Exception:
            _log.exception("request %s failed", request_id)
            if began:
                raise
            await error_response(500, internal_error(request_id))(scope, receive, numbered)

    def _note(self, scope: Scope, request_id: str, status: int, took_s: float) -> None:
        """Log an API's request, and one that failed; the page's files would drown them.

        What was refused before anybody was known is counted, and no more.
        """
        counted = self._refusals.answered(status)
        route = route_of(scope["path"])
        known = route.startswith(("/v1/", LLAVA_PREFIX)) or (status >= 400 and status != 404)
        if known and (not counted or is_known(scope)):
            said = visible(f"{scope['method']} {route}")[:_ROUTE_CHARS]
            _log.info("request %s: %s is %d after %.3f s", request_id, said, status, took_s)


class Guard:
    """Lets a request through when the access policy does.

    A `Range` is taken away, and the whole file comes: Gradio's routes fail at several ranges, and
    answer one with the request's own headers. Source: RFC 9110, 14.2, a server may ignore it.
    """

    def __init__(self, app: ASGIApp, policy: AccessPolicy) -> None:
        self._app = app
        self._policy = policy
        self._login = LoginPage(policy)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif (refusal := self._refusal(scope)) is not None:
            await refusal(scope, receive, send)
        elif scope["path"] == LOGIN_PATH:
            await self._login.answer(scope["method"])(scope, receive, send)
        else:
            self._policy.caller(_headers(scope)).note(scope)
            kept = [pair for pair in scope["headers"] if pair[0] != b"range"]
            await self._app({**scope, "headers": kept}, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = _headers(scope)
        if sum(name == b"host" for name, _ in scope["headers"]) != 1:
            return plain_error(400, "exactly one Host header is expected")
        path, method = scope["path"], scope["method"]
        match self._policy.judge(path, method, headers):
            case "allowed":
                return None
            case "wrong-host":
                message = "this server does not answer under that name; open http://localhost"
                return plain_error(421, message, code="wrong_host")
            case "wrong-origin":
                message = "requests from other web pages are refused"
                return plain_error(403, message, code="wrong_origin")
            case "no-token":
                if path in PAGE_PATHS and "text/html" in headers.get("accept", ""):
                    return RedirectResponse(LOGIN_PATH, status_code=303)
                return _unauthorized()


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _unauthorized() -> Response:
    message = (
        "the token of this start is missing or wrong; expected `Authorization: Bearer TOKEN` "
        "with the token that `llava-pack serve` printed"
    )
    response = plain_error(401, message)
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _with_ours(
    headers: Iterable[tuple[bytes, bytes]], request_id: str
) -> list[tuple[bytes, bytes]]:
    theirs = list(headers)
    set_already = {name.lower() for name, _ in theirs}
    ours = [pair for pair in _HEADERS if pair[0] not in set_already]
    return [*theirs, *ours, (b"x-request-id", request_id.encode())]
