"""What a body may be, before anything behind reads it: one layer before every route.

A body is taken in whole, counted piece by piece as it comes, and only then handed on. What is
beyond a bound is refused with the piece that shows it, so nothing large is ever parsed, and the
event loop is held for microseconds. Bodies that are held together have a budget, of which one
caller gets half: who finds it used up waits, and is told to come back after a while.
"""

import asyncio
import io
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llava_pack.engine.environment import trim_memory
from llava_pack.serve.access.scopes import LLAVA_PREFIX
from llava_pack.serve.admission.body_budget import Budget, Holding
from llava_pack.serve.admission.json_bounds import (
    JsonCount,
    JsonLimits,
    NotJsonError,
    TooLargeError,
    too_large,
)
from llava_pack.serve.caller import caller_of
from llava_pack.serve.errors import pack_response, plain_error
from llava_pack.serve.port import LaterError, OverloadedError

_MIB = 1 << 20
MAX_BODY_BYTES = 64 * _MIB
"""Of a request that may hold pictures."""
MAX_OTHER_BYTES = 4 * _MIB
"""Of every other body."""
_PICTURED = frozenset(
    {"/v1/chat/completions", "/v1/responses", "/api/chat", "/api/generate", "/tokenize",
     "/observe", "/worker_generate_stream"}
)  # fmt: skip
_SMALL_BYTES = 64 * 1024
_LARGE_BYTES = _MIB
"""From here on a body's memory is given back when it is gone."""
_PATIENCE_S = 120.0
_KEY = "body_holding"
_LENGTH_DIGITS = 16


_LARGE, _OTHER = JsonLimits(size_bytes=MAX_BODY_BYTES), JsonLimits(size_bytes=MAX_OTHER_BYTES)


@dataclass(frozen=True, kw_only=True)
class BodyLimits:
    """What bodies may be.

    Attributes:
        pictured: for the routes that take pictures.
        other: for all other routes.
        held_bytes: of all bodies that are held at once.
        patience_s: how long a request waits for others' bodies to go.
    """

    pictured: JsonLimits = _LARGE
    other: JsonLimits = _OTHER
    held_bytes: int = 2 * MAX_BODY_BYTES
    patience_s: float = _PATIENCE_S

    def budget(self) -> Budget:
        """Return the room for bodies, of which one caller gets half."""
        return Budget(self.held_bytes, self.held_bytes // 2)

    def of(self, path: str) -> JsonLimits:
        """Return the limits of a route.

        >>> BodyLimits().of("/llava/key/worker_generate_stream").size_bytes >> 20
        64
        >>> BodyLimits().of("/login").size_bytes >> 20
        4
        """
        if path.startswith(LLAVA_PREFIX):
            path = "/" + path.rpartition("/")[2]
        return self.pictured if path in _PICTURED else self.other


class Door(Protocol):
    """What knows whether a request could wait at all, before its body is read."""

    @property
    def bodies(self) -> Budget:
        """The room for bodies, in which requests wait too."""

    def admit_body(self, who: str) -> None:
        """Refuse a caller's request that no model would let wait.

        Raises:
            LaterError: as many wait as may.
        """

    def retry_s(self, who: str) -> float:
        """Return after how many seconds a caller's body may find room."""


class Admission:
    """Takes bodies in, counts them, and hands on what is within the limits."""

    def __init__(
        self,
        app: ASGIApp,
        limits: BodyLimits | None = None,
        door: Door | None = None,
    ) -> None:
        self._app = app
        self._limits = limits or BodyLimits()
        self._door = door
        self._budget = door.bodies if door else self._limits.budget()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limits = self._limits.of(scope["path"])
        announced = _announced(scope, limits.size_bytes)
        try:
            if announced > limits.size_bytes:
                raise too_large(limits.size_bytes)
            if announced > _SMALL_BYTES:
                await self._held(scope, receive, send, announced)
            elif (body := await _whole(receive, JsonCount(limits))) is not None:
                await self._app(scope, replayed([body], receive), send)
        except TooLargeError as error:
            await plain_error(413, error.message, param="body")(scope, receive, send)
        except NotJsonError as error:
            await plain_error(400, error.message, code="invalid_json", param="body")(
                scope, receive, send
            )

    async def _held(self, scope: Scope, receive: Receive, send: Send, size_bytes: int) -> None:
        """Serve a request whose body takes from the budget, until it is gone."""
        who = caller_of(scope).name
        try:
            if self._door and self._limits.of(scope["path"]) is self._limits.pictured:
                self._door.admit_body(who)
            async with asyncio.timeout(self._limits.patience_s):
                holding = await self._budget.take(who, size_bytes)
        except TimeoutError:
            retry_s = self._door.retry_s(who) if self._door else self._limits.patience_s
            late = OverloadedError("too many large requests are in progress", retry_s=retry_s)
            await pack_response(late)(scope, receive, send)
            return
        except LaterError as error:
            await pack_response(error)(scope, receive, send)
            return
        scope.setdefault("state", {})[_KEY] = holding

        try:
            body = await _whole(receive, JsonCount(self._limits.of(scope["path"])))
            if body is not None:
                bodies = [body]
                del body
                await self._app(scope, replayed(bodies, receive), send)
        finally:
            holding.give_back()
            if size_bytes >= _LARGE_BYTES:
                trim_memory()


def drop_copies(request: Request) -> None:
    """Drop what Starlette keeps of a parsed body; it would be there until the answer's end."""
    for kept in ("_body", "_json"):
        request.__dict__.pop(kept, None)


def body_is_gone(request: Request) -> None:
    """Give the budget back what a request's body took: nothing of it is held any more."""
    drop_copies(request)
    holding = request.scope.get("state", {}).get(_KEY)
    if isinstance(holding, Holding):
        holding.give_back()


def _announced(scope: Scope, most: int) -> int:
    """Return how large a body says it is; one that does not say may be the largest there is."""
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:  # it decides, whatever length is told beside it: RFC 9112
        return most
    length = headers.get(b"content-length")
    if length is None:
        return 0
    return int(length) if length.isdigit() and len(length) < _LENGTH_DIGITS else most + 1


async def _whole(receive: Receive, count: JsonCount) -> bytes | None:
    """Return a body that was counted piece by piece; None where the client went away."""
    taken = io.BytesIO()  # unlike a list of pieces, it is the body in the end, and no copy of it
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        piece = message.get("body", b"")
        count.take(piece)
        taken.write(piece)
        if not message.get("more_body", False):
            return taken.getvalue()


def replayed(bodies: list[bytes], receive: Receive) -> Receive:
    """Return a `receive` that tells the body once, and then what comes after it.

    Args:
        bodies: the one that is told; it is taken out, so that nobody holds it any longer.
        receive: what comes after it.
    """

    async def again() -> Message:
        if bodies:
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}
        return await receive()

    return again
