"""The gate before the page's library: what is open, for whom, and in which shape.

It stands where the library is mounted, so that nothing reaches the library by another way. Routes
are those of `page_routes`, files and sessions belong to whom `page_owners` says, and an event is
written anew by `page_events` before the library parses it. Of a request's headers the library gets
the few that a page needs: no token, no cookie, and nothing that says which address this is.
"""

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llava_pack.format.errors import UsageError
from llava_pack.serve.access.sessions import cookies
from llava_pack.serve.api.messages import MAX_PICTURES
from llava_pack.serve.caller import caller_of
from llava_pack.serve.page.events import (
    MAX_EVENT_BYTES,
    EventShape,
    picture_type,
    read_call,
    read_cancellation,
    session_of,
)
from llava_pack.serve.page.half_uploads import half_uploads_removed
from llava_pack.serve.page.owners import Owner, Owners
from llava_pack.serve.page.routes import Found, find_route
from llava_pack.serve.page.streams import CountedForm, WholeAnswer, captured, read_body, with_body

MAX_FORM_BYTES = 64 * 1024 * 1024
"""The largest upload: several pictures, of which each has a bound of its own."""
_COOKIE = "llava-pack-page"
_COOKIE_SHAPE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_PASSED_ON = frozenset(
    {b"host", b"accept", b"accept-encoding", b"accept-language", b"content-type",
     b"content-length", b"user-agent", b"if-none-match", b"if-modified-since"}
)  # fmt: skip
_NOTHING_TO_RESET = b'{"event_id": ""}'
# A picture that is opened by itself is shown, and whatever it really is runs nothing.
_FILE_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; sandbox"),
    (b"cache-control", b"private"),
)


@dataclass(frozen=True, kw_only=True)
class GateFacts:
    """What the gate must know of the page behind it."""

    events: Mapping[int, EventShape]
    uploads: PurePath
    """The folder that uploads land in."""
    known: set[str]
    """What the library takes for uploads."""
    examples: frozenset[str]
    """Pictures that are everybody's."""
    waits: Callable[[str], bool]
    """Whether the queue has a session."""


class PageGate:
    """Lets through what the page itself asks for, and answers 404 for the rest."""

    def __init__(self, app: ASGIApp, facts: GateFacts) -> None:
        self._app = app
        self._facts = facts
        self._owners = Owners()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        found = find_route(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if found is None:
            raise _absent()
        caller = caller_of(scope)
        owner = Owner(caller=caller.id or caller.name, browser=_browser(scope))
        with suppress(ClientDisconnect):
            await self._serve(found, owner, _kept(scope, found), receive, send)

    async def _serve(
        self, found: Found, owner: Owner, scope: Scope, receive: Receive, send: Send
    ) -> None:
        match found.use:
            case "document":
                await self._app(scope, receive, _with_cookie(send, owner))
            case "public":
                await self._app(scope, receive, send)
            case "file":
                await self._show(found.name, owner, scope, receive, send)
            case "upload":
                await self._take(owner, scope, receive, send)
            case "run" | "join":
                await self._run(owner, scope, receive, send, queued=found.use == "join")
            case "stream":
                await self._tell(owner, scope, receive, send)
            case "cancel":
                await self._cancel(owner, scope, receive, send)
            case "reset":
                await self._app(*with_body(scope, receive, _NOTHING_TO_RESET), send)

    async def _show(
        self, path: str, owner: Owner, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if not self._may_use(owner, path) or picture_type(path) is None:
            raise _absent()
        await self._app(scope, receive, _with_headers(send, _FILE_HEADERS))

    async def _take(self, owner: Owner, scope: Scope, receive: Receive, send: Send) -> None:
        boundary = _boundary(scope)
        counted = CountedForm(receive, boundary, max_parts=MAX_PICTURES, max_bytes=MAX_FORM_BYTES)
        try:
            with half_uploads_removed():
                answer = await captured(self._app, scope, counted)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError("the form contains no files") from error
        if counted.refusal:
            raise HTTPException(413, counted.refusal)
        if answer.status == 200:
            self._remove(self._owners.brought(owner, self._landed(answer)))
        await answer.send(send)

    def _landed(self, answer: WholeAnswer) -> dict[str, int]:
        paths = map(Path, json.loads(answer.body))
        return {str(p): p.stat().st_size for p in paths if self._facts.uploads in p.parents}

    def _remove(self, files: Sequence[str]) -> None:
        """Remove uploads that nobody has; at once, for the next one may be the same picture."""
        for file in files:
            self._facts.known.discard(file)
            with suppress(OSError):  # what cannot be removed now goes with the run's folder
                Path(file).unlink()
                Path(file).parent.rmdir()

    async def _run(
        self, owner: Owner, scope: Scope, receive: Receive, send: Send, *, queued: bool
    ) -> None:
        body = await read_body(receive, MAX_EVENT_BYTES)
        call = read_call(
            body, self._facts.events, lambda path: self._may_use(owner, path), queued=queued
        )
        if not self._owners.claim(owner, call.session):
            raise _absent()
        scope, receive = with_body(scope, receive, call.body)
        if not queued:
            await self._app(scope, receive, send)
            return
        answer = await captured(self._app, scope, receive)
        if answer.status == 200:
            self._owners.began(call.session, str(json.loads(answer.body)["event_id"]))
        await answer.send(send)

    async def _tell(self, owner: Owner, scope: Scope, receive: Receive, send: Send) -> None:
        session = session_of(dict(_query(scope)).get("session_hash"))
        if not (self._owners.holds(owner, session) and self._facts.waits(session)):
            raise _absent()
        await self._app(scope, receive, send)

    async def _cancel(self, owner: Owner, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive, MAX_EVENT_BYTES)
        ended = read_cancellation(body, self._facts.events)
        if not self._owners.runs(owner, ended.session, ended.event):
            raise _absent()
        await self._app(*with_body(scope, receive, ended.body), send)

    def _may_use(self, owner: Owner, path: str) -> bool:
        return path in self._facts.examples or self._owners.may_use(owner, path)


def _absent() -> HTTPException:
    return HTTPException(404, "not found")


def _browser(scope: Scope) -> str:
    """Return what the page's cookie says; empty where there is none, or it is not one of ours."""
    headers = (value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie")
    return next(filter(_COOKIE_SHAPE.fullmatch, cookies(";".join(headers), _COOKIE)), "")


def _with_cookie(send: Send, owner: Owner) -> Send:
    """Give a browser its cookie with the page; one that has it keeps it."""
    if owner.browser:
        return send
    response = Response()
    response.set_cookie(_COOKIE, secrets.token_urlsafe(32), httponly=True, samesite="strict")
    return _with_headers(send, [pair for pair in response.raw_headers if pair[0] == b"set-cookie"])


def _with_headers(send: Send, added: Any) -> Send:
    names = {name for name, _ in added}

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message["headers"] if pair[0].lower() not in names]
            message = {**message, "headers": [*kept, *added]}
        await send(message)

    return sent


def _kept(scope: Scope, found: Found) -> Scope:
    """Return a request with the headers and the part of the query that a page needs."""
    headers = [pair for pair in scope["headers"] if pair[0] in _PASSED_ON]
    query = urlencode([pair for pair in _query(scope) if pair[0] in found.query])
    return {**scope, "headers": headers, "query_string": query.encode()}


def _query(scope: Scope) -> list[tuple[str, str]]:
    try:
        return parse_qsl(scope["query_string"].decode("ascii"), max_num_fields=8)
    except ValueError:
        return []


def _boundary(scope: Scope) -> bytes:
    """Return what parts of a form are separated by.

    Raises:
        UsageError: the body is no form.
    """
    kinds = [value for name, value in scope["headers"] if name == b"content-type"]
    # Of two, the library goes by the first, and would split the form where nobody counts.
    kind = kinds[0] if len(kinds) == 1 else b""
    match = re.fullmatch(rb"multipart/form-data;\s*boundary=([A-Za-z0-9'()+_,./:=?-]{1,70})", kind)
    if match is None:
        raise UsageError("expected files, as multipart/form-data")
    return match[1]
