"""Why the guard does not take a request, for programs as JSON and for people as a page."""

import re
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Scope

from llava_pack.format.text import visible
from llava_pack.serve.access.policy import Ruling, offered_key
from llava_pack.serve.access.public_name import host_name
from llava_pack.serve.access.scopes import LOGIN_PATH
from llava_pack.serve.errors import no_such_route, plain_error
from llava_pack.serve.gateway.login import PAGE_PATHS, to_login, wrong_host_page
from llava_pack.serve.gateway.public_address import upstream_host

_MAX_CHARS = 80
_NO_KEY = (
    "the token is missing or wrong; expected `Authorization: Bearer TOKEN` with the "
    "token that `llava-pack serve` printed, or a key of `llava-pack keys add`"
)
_OTHER_START = (
    "this is the token of another start; `llava-pack tunnel` prints the present one, and a key of "
    "`llava-pack keys add` outlives every start"
)
_TOKEN_SHAPE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


def rejection(scope: Scope, headers: Mapping[str, str], ruling: Ruling) -> Response:
    """Return why a request is not taken; who shows no key learns nothing of what is there."""
    for_person = "text/html" in headers.get("accept", "")
    match ruling.verdict:
        case "wrong-host":
            return _wrong_host(scope, headers, for_person=for_person)
        case "wrong-origin":
            return plain_error(403, _wrong_origin(headers), code="wrong_origin")
        case "wrong-scope":
            held = ", ".join(ruling.key.scopes) if ruling.key else ""
            needs = ruling.route.needs if ruling.route else ""
            message = (
                f"the key {ruling.caller.name} has the scopes {held}; this needs the scope {needs}"
            )
            return plain_error(403, message, code="wrong_scope")
        case "no-route":
            return no_such_route(scope["method"], scope["path"])
        case "expired":
            message = f"the key {ruling.caller.name} has expired; ask the operator of this server"
            return _unauthorized(message, code="expired_api_key")
        case _ if scope["path"] in PAGE_PATHS and for_person:
            return to_login(scope)
        case _ if _TOKEN_SHAPE.fullmatch(offered_key(headers)):
            return _unauthorized(_OTHER_START, code="token_of_another_start")
        case _:
            return _unauthorized(_NO_KEY)


def _wrong_host(scope: Scope, headers: Mapping[str, str], *, for_person: bool) -> Response:
    """Return under which name we do not answer, and how it becomes one of ours."""
    host, by = headers.get("host", ""), upstream_host(scope)
    if for_person and scope["path"] in {*PAGE_PATHS, LOGIN_PATH}:
        return wrong_host_page(_cut(host_name(host) or host))
    message = (
        f"this server does not answer to the host {_cut(host)!r}"
        + (f", asked for by a proxy as {_cut(by)!r}" if by else "")
        + "; open http://localhost, or, if that name is yours, start it with: llava-pack serve "
        "--allowed-host NAME"
    )
    return plain_error(421, message, code="wrong_host")


def _wrong_origin(headers: Mapping[str, str]) -> str:
    origin = _cut(headers.get("origin", "")) or "another web site"
    return (
        f"requests from pages of {origin} are refused; if it is a page of yours: llava-pack serve "
        "--allow-origin ORIGIN, or --public-url where it is this server behind a proxy"
    )


def _cut(text: str) -> str:
    return visible(text)[:_MAX_CHARS]


def _unauthorized(message: str, *, code: str | None = None) -> Response:
    response = plain_error(401, message, code=code)
    response.headers["WWW-Authenticate"] = "Bearer"
    return response
