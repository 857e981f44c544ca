"""The gateway's outer layers, as plain ASGI: errors with an id, and access.

Behind `PublicAddress`, outermost first: `Boundary` numbers every request, finds the route that its
path means, answers HEAD as GET without a body, adds the security headers and turns what nobody
caught into a 500 that tells nothing, and counts what was refused; `Guard` asks the access policy.

Source: ASGI specification 3.0 (HTTP and WebSocket messages).
"""

import logging
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llava_pack.format.text import visible
from llava_pack.serve.access.audit import AuditLog
from llava_pack.serve.access.key_store import LiveKeys
from llava_pack.serve.access.policy import AccessPolicy, AccessRequest, Ruling
from llava_pack.serve.access.quota import QuotaError
from llava_pack.serve.access.scopes import (
    CONTROLLER_PATH,
    LLAVA_PREFIX,
    LOGIN_PATH,
    METHODS,
    canonical,
    names_nothing,
    route_of,
)
from llava_pack.serve.admission.refusals import Refusals
from llava_pack.serve.admission.visits import Ledger, Visit
from llava_pack.serve.caller import is_known
from llava_pack.serve.errors import error_response, internal_error, pack_response, plain_error
from llava_pack.serve.gateway.cors import cors_headers, preflight_answer
from llava_pack.serve.gateway.login import LoginPage, controller_answer, cookie_header
from llava_pack.serve.gateway.public_address import upstream_host
from llava_pack.serve.gateway.rejections import rejection

_log = logging.getLogger(__name__)
_ROUTE_CHARS = 80
_STRANGE = frozenset({"wrong-host", "wrong-origin"})
_LEFT = 499
"""The status of a request whose client went away before an answer began. Source: nginx."""
_NOWHERE = "-"
_PATH_CHARS = 120
_PATH_PARTS = 8
_ADDED = "added_headers"
"""Under which the guard writes down what every answer to a request says, an error too."""
# Of everything that brings no policy of its own, as the page and the login do: nothing runs in it.
_CONTENT_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
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
        without_body = scope["method"] == "HEAD"
        scope = {**scope, "path": canonical(scope["path"])}
        if without_body:
            scope["method"] = "GET"
        scope.setdefault("state", {})["request_id"] = request_id
        began = False

        async def numbered(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                self._note(scope, request_id, message["status"], time.monotonic() - began_s)
                theirs = [*message["headers"], *scope["state"].get(_ADDED, ())]
                message = {**message, "headers": _with_ours(theirs, request_id)}
            elif without_body:
                message = {**message, "body": b""}
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
        row = route_of(scope["path"], scope["method"])
        route = row.template if row else _NOWHERE
        known = route.startswith(("/v1/", "/api/", LLAVA_PREFIX)) or (
            status >= 400 and status != 404
        )
        if known and (not counted or is_known(scope)):
            said = visible(f"{scope['method']} {route}")[:_ROUTE_CHARS]
            _log.info("request %s: %s is %d after %.3f s", request_id, said, status, took_s)


class Guard:
    """Lets a request through when the access policy does, and accounts for it.

    Args:
        app: what stands behind it.
        policy: who may ask.
        ledger: quotas and the audit log; None keeps quotas only.
    """

    def __init__(self, app: ASGIApp, policy: AccessPolicy, ledger: Ledger | None = None) -> None:
        self._app = app
        self._policy = policy
        self._login = LoginPage(policy)
        self._ledger = ledger or Ledger(AuditLog(None))
        self._store = LiveKeys(Path(policy.key_store) if policy.key_store else None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            try:
                await self._app(scope, receive, send)
            finally:
                self._ledger.audit.close()
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        asked = AccessRequest(
            path=scope["path"],
            method=scope["method"],
            headers=headers,
            upstream_host=upstream_host(scope),
        )
        added = cors_headers(self._policy.name, headers.get("origin", ""))
        scope.setdefault("state", {})[_ADDED] = added
        ruling = self._policy.judge(asked, self._store.now(), int(time.time()))
        visit = self._visit(scope, ruling)
        status = _LEFT

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = self._with_newer_cookie(message, ruling, scope)
            await send(message)

        try:
            answer = self._answer(scope, headers, ruling, visit)
            if answer is not None:
                await answer(scope, receive, watched)
            else:
                visit.note(scope)
                await self._app(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            self._account(ruling, visit, status)
            if status == 404 and names_nothing(ruling.route) and self._is_somebody(ruling):
                what = visible(f"{scope['method']} {self._without_keys(scope['path'])}")
                _log.info("request %s: there is no %s", visit.request_id, what[:_PATH_CHARS])

    def _without_keys(self, path: str) -> str:
        """Return a path for the log: whoever takes a key for a part of it is not given away."""
        parts, store = path.split("/", _PATH_PARTS)[:_PATH_PARTS], self._store.now()
        return "/".join("…" if self._policy.is_key(part, store) else part for part in parts)

    def _is_somebody(self, ruling: Ruling) -> bool:
        """Return whether a key was shown, or none is asked for: a stranger fills no log."""
        return ruling.key is not None or self._policy.secrets is None

    def _answer(
        self, scope: Scope, headers: Mapping[str, str], ruling: Ruling, visit: Visit
    ) -> Response | None:
        """Return what is answered here: refusals and the login; None lets the request through."""
        if sum(name == b"host" for name, _ in scope["headers"]) != 1:
            return plain_error(400, "exactly one Host header is expected")
        if ruling.verdict == "preflight":
            return preflight_answer(headers)
        if ruling.verdict not in _STRANGE and not scope["path"] and scope.get("root_path"):
            return RedirectResponse(f"{scope['root_path']}/", status_code=308)
        if ruling.verdict != "allowed":
            return rejection(scope, headers, ruling)
        if scope["path"] == LOGIN_PATH:
            return self._login.answer(scope, headers, ruling)
        if scope["path"] == CONTROLLER_PATH:
            return controller_answer(self._policy, ruling, scope)
        try:
            if ruling.route is not None and ruling.route.metered:
                visit.admit()
        except QuotaError as error:
            return pack_response(error)
        return None

    def _visit(self, scope: Scope, ruling: Ruling) -> Visit:
        template = ruling.route.template if ruling.route else _NOWHERE
        method = scope["method"] if scope["method"] in METHODS else _NOWHERE
        return Visit(
            ruling.caller,
            key=ruling.key,
            request_id=scope.get("state", {}).get("request_id", ""),
            route=f"{method} {template}",
            client=scope["client"][0] if scope.get("client") else "",
            ledger=self._ledger,
        )

    def _account(self, ruling: Ruling, visit: Visit, status: int) -> None:
        """Charge and write down what a key did; of strangers only that they came."""
        passed = ruling.verdict == "allowed"
        if ruling.verdict == "preflight":  # the browser's, which shows nobody's key
            return
        if ruling.key is None and not passed:
            self._ledger.audit.stranger()
        elif self._is_somebody(ruling):
            visit.close(status, listed=not passed or ruling.route is None or ruling.route.listed)

    def _with_newer_cookie(self, message: Message, ruling: Ruling, scope: Scope) -> Message:
        """Give a session that goes on a cookie of now, where it is known for which paths it is."""
        session, now_s = ruling.session, int(time.time())
        if session is None or ruling.verdict != "allowed" or not session.due(now_s):
            return message
        if self._policy.name.root_path and not scope.get("root_path"):
            return message
        newer = self._policy.derived.cookie(replace(session, seen=now_s))
        pair = cookie_header(self._policy.derived.cookie_name, newer, scope)
        return {**message, "headers": [*message["headers"], pair]}


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _with_ours(
    headers: Iterable[tuple[bytes, bytes]], request_id: str
) -> list[tuple[bytes, bytes]]:
    theirs = list(headers)
    set_already = {name.lower() for name, _ in theirs}
    ours = [pair for pair in _HEADERS if pair[0] not in set_already]
    return [*theirs, *ours, (b"x-request-id", request_id.encode())]
