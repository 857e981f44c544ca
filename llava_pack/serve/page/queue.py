"""Answers of the page that nobody reads: counted, and ended after a while.

Gradio takes an event by one request and tells what comes of it by another. Who never sends the
other one leaves an answer running for nobody, and its words in memory. Here a session must begin to
listen within a minute, and a caller has a number of events that nobody listens to.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llava_pack.serve.caller import caller_of
from llava_pack.serve.errors import plain_error

_JOIN = "/gradio_api/queue/join"
_LISTEN = "/gradio_api/queue/data"
_PATIENCE_S = 60.0
_UNHEARD = 32
_OK = 200


class UnheardEvents:
    """Ends events of the page's queue to whose session nobody listens.

    Args:
        app: what is behind.
        queue: returns Gradio's queue; it is asked for with each event.
        patience_s: how long a session may take to begin to listen.
        most: events of one caller that nobody listens to yet.

    Source: gradio queueing.py, `Queue`: its events, and `clean_events` for a client that is gone.
    """

    def __init__(
        self,
        app: ASGIApp,
        queue: Callable[[], Any],
        patience_s: float = _PATIENCE_S,
        most: int = _UNHEARD,
    ) -> None:
        self._app = app
        self._queue = queue
        self._patience_s = patience_s
        self._most = most
        self._listeners: Counter[str] = Counter()
        self._unheard: Counter[str] = Counter()
        self._watches: dict[str, dict[asyncio.Task[None], str]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"] if scope["type"] == "http" else ""
        if path == _JOIN and scope["method"] == "POST":
            await self._join(scope, receive, send)
        elif path == _LISTEN:
            await self._listen(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _listen(self, scope: Scope, receive: Receive, send: Send) -> None:
        session, listens = _session(scope), False

        async def told(message: Message) -> None:
            nonlocal listens
            # Whoever is refused there, since the session is not theirs, listens to nothing.
            if message["type"] == "http.response.start" and message["status"] == _OK:
                listens = True
                self._listeners[session] += 1
                self._heard(session)
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            if listens:
                self._listeners[session] -= 1
                self._listeners += Counter()  # drops what is zero

    async def _join(self, scope: Scope, receive: Receive, send: Send) -> None:
        who = caller_of(scope).name
        if self._unheard[who] >= self._most:
            message = f"{self._most} events of this key are waiting for a listener"
            await plain_error(429, message, code="rate_limited")(scope, receive, send)
            return
        said: list[bytes] = []

        async def heard(message: Message) -> None:
            said.append(message.get("body", b""))
            await send(message)

        self._unheard[who] += 1
        try:
            await self._app(scope, receive, heard)
        finally:
            self._unheard[who] -= 1
        self._watch(who, _event_id(b"".join(said)))

    def _watch(self, who: str, event_id: str) -> None:
        """Wait for somebody to listen to an event that was taken."""
        event = self._queue().event_ids_to_events.get(event_id)
        session = str(getattr(event, "session_hash", ""))
        if event is None or self._listeners[session]:
            return
        self._unheard[who] += 1
        task = asyncio.create_task(self._expire(session))
        self._watches.setdefault(session, {})[task] = who
        task.add_done_callback(lambda done: self._ended(session, done))

    def _heard(self, session: str) -> None:
        for task in self._watches.get(session, {}):
            task.cancel()

    def _ended(self, session: str, task: "asyncio.Task[None]") -> None:
        watches = self._watches.get(session, {})
        who = watches.pop(task, None)
        if not watches:
            self._watches.pop(session, None)
        if who is not None:
            self._unheard[who] -= 1
            self._unheard += Counter()  # drops what is zero

    async def _expire(self, session: str) -> None:
        """End a session's events, as Gradio does for a listener that went away."""
        await asyncio.sleep(self._patience_s)
        queue = self._queue()
        await queue.clean_events(session_hash=session)
        if session in queue.pending_messages_per_session:
            del queue.pending_messages_per_session[session]
        queue.pending_event_ids_session.pop(session, None)


def _session(scope: Scope) -> str:
    """Return whose events are asked for: of several the last, as the gate and Gradio have it."""
    query: bytes = scope["query_string"]
    return parse_qs(query.decode("latin-1")).get("session_hash", [""])[-1]


def _event_id(answer: bytes) -> str:
    """Return the id in Gradio's answer to a join; empty where it was refused."""
    try:
        told = json.loads(answer)
    except ValueError:
        return ""
    return str(told.get("event_id", "")) if isinstance(told, dict) else ""
