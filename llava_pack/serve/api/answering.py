"""How an answer goes to a client, the same in every dialect of an API; a `Writer` writes it.

A stream begins when the first token is there, or after a moment without one, so that a request
that cannot be answered gets its own status and not a broken stream. While a long prompt is read,
the dialect's ping keeps the stream, and the tunnel that it goes through, open. A client that
leaves ends the work on its answer.

An answer has one choice or several: each is a request of its own to an engine.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace

from fastapi.responses import Response, StreamingResponse
from starlette.requests import Request as HttpRequest

from llava_pack.checkpoint.templates import RAW
from llava_pack.engine.picture_warnings import picture_warnings
from llava_pack.engine.port import Event, Failed, Message, Picture
from llava_pack.engine.sampling import GrammarError
from llava_pack.format.errors import PackError
from llava_pack.serve.admission.bodies import body_is_gone
from llava_pack.serve.api.inference import Inference, Question, visit_with
from llava_pack.serve.api.pacing import paced
from llava_pack.serve.api.tools import asking
from llava_pack.serve.api.translation import (
    Answer,
    engine_messages,
    engine_request,
    picture_urls,
)
from llava_pack.serve.api.wire import ChatRequest
from llava_pack.serve.api.writer import AnswerHead, Writer
from llava_pack.serve.errors import ErrorBody, describe, field_names, internal_error

_log = logging.getLogger(__name__)
_FIRST_EVENT_S = 1.0
_PING_S = 10.0
_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def answer_chat(
    inference: Inference, body: ChatRequest, writer: Writer, request: HttpRequest
) -> Response:
    """Return the answer to a conversation.

    Raises:
        HTTPException: 404, there is no such model.
        PackError: it cannot be answered; in the error's own class.
    """
    choices = ask(inference, body, writer.head, request)
    return await reply(choices, writer, request, stream=bool(body.stream))


def ask(
    inference: Inference,
    body: ChatRequest,
    head: AnswerHead,
    request: HttpRequest,
    *,
    prompt: str | None = None,
    index: int = 0,
) -> list[AsyncGenerator[Event, None]]:
    """Return the events of each choice.

    Args:
        inference: what is asked.
        body: what was sent.
        head: of the answer; it is told what is odd about the pictures.
        request: as it came.
        prompt: what the model is given as it is, in place of the conversation.
        index: of the first choice.

    Raises:
        HTTPException: 404, there is no such model.
        UsageError: it cannot be asked.
    """
    model, visit = inference.find(body.model), visit_with(request)

    def messages(pictures: Sequence[Picture]) -> tuple[Message, ...]:
        if body.stream:  # then only the urls are left of it, and they go with the question
            body_is_gone(request)
        if index == 0:  # every choice sees the same pictures
            head.warnings.extend(picture_warnings(pictures))
        written = engine_messages(body.messages, pictures)
        return asking(written, body.forced) if body.forced else written

    asked = engine_request(body, f"{head.request_id}-{index}", visit.caller)
    if prompt is not None:
        raw = (Message("user", (prompt,)),)
        question = Question(replace(asked, conv_mode=RAW, new_turn=False), (), lambda _: raw)
    else:
        question = Question(asked, picture_urls(body.messages), messages)
    choices = inference.choices(model, visit, question, body.n or 1)
    if (holds := body.holds) is not None:
        return [_blaming(holds[0], events) for events in choices]
    return choices


async def _blaming(field: str, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Yield events; where an engine cannot use a grammar, say which field it came in."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Failed) and event.kind == GrammarError.kind:
                raise GrammarError(event.message, subject=field, hint=event.hint)
            yield event


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
    pieces = _pieces(choices, writer, request)
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
    choices: Sequence[AsyncGenerator[Event, None]], writer: Writer, request: HttpRequest
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
        for piece in writer.failure(_described(error, request)):
            yield piece


def _described(error: Exception, request: HttpRequest) -> ErrorBody:
    request_id = request.state.request_id
    if isinstance(error, PackError):
        return describe(error, request_id, field_names(request))[1]
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
