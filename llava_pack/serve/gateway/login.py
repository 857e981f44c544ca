"""The login: takes the token out of the URL's fragment and swaps it for a cookie.

A fragment never travels to a server or into its logs. The page sends it once as a header and
gets a cookie that scripts cannot read and that no other site's requests carry.
"""

import re
import time
from collections.abc import Mapping
from urllib.parse import quote

from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import Scope

from llava_pack.serve.access.policy import AccessPolicy, Ruling
from llava_pack.serve.access.scopes import LOGIN_PATH
from llava_pack.serve.access.sessions import ANY_COOKIE, Session, cookies
from llava_pack.serve.caller import root_url
from llava_pack.serve.gateway.login_form import CONTENT_POLICY, login_form

PAGE_PATHS = frozenset({"", "/"})
_HEADERS = {"Cache-Control": "no-store", "Content-Security-Policy": CONTENT_POLICY}


class LoginPage:
    """Serves the form, and the cookie to whom the guard let through."""

    def __init__(self, policy: AccessPolicy) -> None:
        self._policy = policy

    def answer(self, scope: Scope, headers: Mapping[str, str], ruling: Ruling) -> Response:
        """Return the form for GET, the cookie for POST: of the key that was shown, and its own."""
        if scope["method"] in {"GET", "HEAD"}:
            why = self._why(headers.get("cookie", ""))
            text = login_form(why=why, public_url=self._policy.name.url)
            return HTMLResponse(text, headers=_HEADERS)
        if scope["method"] != "POST":
            return Response(status_code=405, headers={"Allow": "GET, POST"})
        response = Response(status_code=204, headers={"Cache-Control": "no-store"})
        if ruling.key is not None:
            now_s = int(time.time())
            session = ruling.session or Session(ruling.key.id, began=now_s, seen=now_s)
            derived = self._policy.derived
            _set_cookie(response, derived.cookie_name, derived.cookie(session), scope)
        return response

    def _why(self, cookie_header: str) -> str:
        """Return what became of an earlier login of this browser, as the form names it."""
        derived, now_s = self._policy.derived, int(time.time())
        if shown := list(cookies(cookie_header, derived.cookie_name)):
            return "" if any(derived.session(one, now_s) for one in shown) else "ended"
        return "restarted" if re.search(ANY_COOKIE, cookie_header) else ""


def to_login(scope: Scope) -> Response:
    """Return the way to the form and back: relative, since what stands before it may be unknown.

    Source: RFC 9110, 10.2.2 (Location may be relative).
    """
    query = scope.get("query_string", b"").decode("latin-1")
    back = f"?to={quote(f'./?{query}', safe='')}" if query else ""
    return RedirectResponse(f"{LOGIN_PATH.removeprefix('/')}{back}", status_code=303)


def wrong_host_page(host: str) -> Response:
    """Return for a person why nothing is shown under a name; it was asked for by a browser."""
    text = login_form(why="wrong_host", host=host)
    return HTMLResponse(text, status_code=421, headers=_HEADERS)


def cookie_header(name: str, value: str, scope: Scope) -> tuple[bytes, bytes]:
    """Return the header that sets a session's cookie for who sent a request."""
    response = Response()
    _set_cookie(response, name, value, scope)
    return next(pair for pair in response.raw_headers if pair[0] == b"set-cookie")


def _set_cookie(response: Response, name: str, value: str, scope: Scope) -> None:
    """Set a cookie that goes to our own paths alone, and under https by https alone."""
    response.set_cookie(
        name,
        value,
        httponly=True,
        samesite="strict",
        path=scope.get("root_path") or "/",
        secure=scope.get("scheme") == "https",
    )


def controller_answer(policy: AccessPolicy, ruling: Ruling, scope: Scope) -> Response:
    """Return where LLaVA's own clients find their routes with the key that asks."""
    path = policy.llava_path_of(ruling.key) if ruling.key else ""
    address = f"{root_url(scope)}{path}"
    return JSONResponse({"controller": address}, headers={"Cache-Control": "no-store"})
