"""How an answer goes to a client, the same in every dialect of an API; a `Writer` writes it.

A stream begins when the first token is there, or after a moment without one, so that a request
that cannot be answered gets its own status and not a broken stream. While a long prompt is read,
the dialect's ping keeps the stream, and the tunnel that it goes through, open. A client that
leaves ends the work on its answer.

An answer has one choice or several: each is a request of its own to an engine.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi.responses import Response, StreamingResponse
from starlette.requests import Request as HttpRequest

from llava_pack.engine.port import Event
from llava_pack.format.errors import PackError
from llava_pack.serve.api.pacing import paced
from llava_pack.serve.api.translation import (
    Answer,
)
from llava_pack.serve.api.wire import TokenOdds
from llava_pack.serve.errors import ErrorBody, describe, internal_error

_log = logging.getLogger(__name__)
_FIRST_EVENT_S = 1.0
_PING_S = 10.0
_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, kw_only=True)
class AnswerHead:
    """What every piece of one answer repeats."""

    request_id: str
    model: str
    created: int
    warnings: list[str] = field(default_factory=list)
    """Of its pictures, once they are decoded: before anything of the answer is there."""


class Writer(Protocol):
    """Writes one answer in a dialect; made for that answer, and may keep what came before.

    Whatever returns pieces of a stream may return none.
    """

    @property
    def head(self) -> AnswerHead:
        """What every piece repeats."""

    @property
    def media_type(self) -> str:
        """That of a stream."""

    def whole(self, choices: Sequence[Answer]) -> str:
        """Return the answer in one piece, as JSON.

        Raises:
            ServeError: it was cut off.
        """

    def opening(self) -> Iterable[str]:
        """Return what a stream begins with, before anything of a choice is known."""

    def piece(self, index: int, text: str, odds: Sequence[TokenOdds]) -> Iterable[str]:
        """Return what is written of a step of a choice; there may be no text with it yet."""

    def ended(self, index: int, choice: Answer) -> Iterable[str]:
        """Return what is written at the end of a choice.

        Raises:
            ServeError: it was cut off.
        """

    def closing(self, choices: Sequence[Answer]) -> Iterable[str]:
        """Return what a stream ends with, once all choices have."""

    def failure(self, error: ErrorBody) -> Iterable[str]:
        """Return what ends a stream that had begun and cannot go on."""

    def ping(self) -> Iterable[str]:
        """Return what tells nothing, and keeps a stream open."""


def server_sent(body: Mapping[str, Any], name: str | None = None) -> str:
    """Return a server-sent event, with a name where the dialect gives it one."""
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n"


def head_of(request: HttpRequest, prefix: str, model: str) -> AnswerHead:
    """Return what the pieces of a request's answer will repeat.

    Args:
        request: as it came.
        prefix: of the answer's id, which tells the kind of it.
        model: by what name the answer calls it.
    """
    return AnswerHead(
        request_id=f"{prefix}-{request.state.request_id}", model=model, created=int(time.time())
    )


async def reply(
    choices: Sequence[AsyncGenerator[Event, None]],
    writer: Writer,
    request: HttpRequest,
    *,
    stream: bool,
) -> Response:
    """Return an answer as it is written, whole or as a stream.

    Args:
        choices: the events of each choice; they are closed with the answer.
        writer: of the dialect.
        request: as it came.
        stream: whether the answer comes in pieces, as soon as they are there.

    Raises:
        PackError: nothing can be answered; in the error's own class.
    """
    if not stream:
        return await _whole(choices, writer, request)
    pieces = _pieces(choices, writer, request.state.request_id)
    head = await anext(pieces)
    return StreamingResponse(
        _joined(head, pieces), media_type=writer.media_type, headers=_STREAM_HEADERS
    )


async def _whole(
    choices: Sequence[AsyncGenerator[Event, None]], writer: Writer, request: HttpRequest
) -> Response:
    answering = asyncio.create_task(_collect(choices))
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            return Response(status_code=499)
        return Response(writer.whole(answering.result()), media_type="application/json")
    finally:
        answering.cancel()
        leaving.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def _collect(choices: Sequence[AsyncGenerator[Event, None]]) -> list[Answer]:
    answers = [Answer() for _ in choices]
    async with aclosing(paced(choices, None)) as steps:
        async for step in steps:
            if step is not None:
                answers[step[0]].take(step[1])
    return answers


async def _left(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _joined(head: str, pieces: AsyncGenerator[str, None]) -> AsyncIterator[str]:
    async with aclosing(pieces):
        yield head
        async for piece in pieces:
            yield piece


async def _pieces(
    choices: Sequence[AsyncGenerator[Event, None]], writer: Writer, request_id: str
) -> AsyncGenerator[str, None]:
    """Yield a stream; an error before its first piece is raised, and a later one is written."""
    began = False
    try:
        async with aclosing(_written(choices, writer)) as pieces:
            async for piece in pieces:
                began = True
                yield piece
    except Exception as error:
        if not began:
            raise
        for piece in writer.failure(_described(error, request_id)):
            yield piece


def _described(error: Exception, request_id: str) -> ErrorBody:
    if isinstance(error, PackError):
        return describe(error, request_id)[1]
    _log.error("request %s failed", request_id, exc_info=error)
    return internal_error(request_id)


async def _written(
    choices: Sequence[AsyncGenerator[Event, None]], writer: Writer
) -> AsyncGenerator[str, None]:
    answers = [Answer() for _ in choices]
    opened, quiet_s = False, 0.0
    async with aclosing(paced(choices, _FIRST_EVENT_S)) as steps:
        async for step in steps:
            pieces = _step(writer, answers, step) if step else ()
            quiet_s = quiet_s + _FIRST_EVENT_S if step is None else 0.0
            if quiet_s >= _PING_S:
                quiet_s, pieces = 0.0, writer.ping()
            if not opened:
                opened = True
                for piece in writer.opening():
                    yield piece
            for piece in pieces:
                yield piece
    for answer in answers:
        answer.check_end()
    for piece in writer.closing(answers):
        yield piece


def _step(writer: Writer, answers: Sequence[Answer], step: tuple[int, Event]) -> Iterable[str]:
    """Add an event to its answer, and return what is written of it.

    Raises:
        PackError: the request failed, or was cut off.
    """
    index, event = step
    answer = answers[index]
    before = len(answer.odds)
    text = answer.take(event)
    if answer.ended is not None:
        return writer.ended(index, answer)
    return writer.piece(index, text, answer.odds[before:])
