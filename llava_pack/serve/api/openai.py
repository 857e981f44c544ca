"""The OpenAI-compatible API: `/v1/chat/completions` and `/v1/models`.

A stream begins when the first token is there, or after a moment without one, so that a request
that cannot be answered gets its own status and not a broken stream. While a long prompt is read,
comments keep the stream, and the tunnel that it goes through, open.

Source: OpenAI API reference, "Create chat completion", "Streaming"; WHATWG HTML, "Server-sent
events" for comments.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from llava_pack.engine.picture_warnings import picture_warnings
from llava_pack.engine.port import Event, Message, Picture
from llava_pack.format.errors import PackError
from llava_pack.serve.admission.bodies import body_is_gone
from llava_pack.serve.api.inference import Inference, Question, visit_with
from llava_pack.serve.api.translation import (
    Answer,
    engine_messages,
    engine_request,
    paced,
    picture_urls,
)
from llava_pack.serve.api.wire import (
    AnswerMessage,
    ChatCompletion,
    ChatRequest,
    Choice,
    ModelCard,
    ModelList,
    TokenOdds,
)
from llava_pack.serve.errors import (
    ERRORS,
    ErrorBody,
    ErrorEnvelope,
    describe,
    internal_error,
    plain_error,
)

_log = logging.getLogger(__name__)
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_ROUTES = {"chat/completions": "POST", "models": "GET"}
_FIRST_EVENT_S = 1.0
_PING_S = 10.0


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One request on its way: what every piece of its answer repeats."""

    request_id: str
    model: str
    created: int
    include_usage: bool
    token_ids: bool
    odds: bool
    warnings: list[str] = field(default_factory=list)
    """Of its pictures, once they are decoded: before anything of the answer is there."""


def openai_router(inference: Inference) -> APIRouter:
    """Return the routes under `/v1`."""
    router = APIRouter(prefix="/v1", responses=ERRORS)
    started = int(time.time())

    @router.get("/models")
    async def list_models() -> ModelList:
        return ModelList(
            data=tuple(ModelCard(id=name, created=started) for name in inference.models)
        )

    @router.get("/models/{name:path}")
    async def show_model(name: str) -> ModelCard:
        return ModelCard(id=inference.find(name).name, created=started)

    @router.post("/chat/completions", response_model=ChatCompletion)
    async def chat(body: ChatRequest, request: Request) -> Response:
        model = inference.find(body.model)
        asked = _Asked(
            request_id=f"chatcmpl-{request.state.request_id}",
            model=model.name,
            created=int(time.time()),
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
            token_ids=body.return_token_ids,
            odds=body.odds is not None,
        )
        visit = visit_with(request)

        def messages(pictures: Sequence[Picture]) -> tuple[Message, ...]:
            if body.stream:  # then only the urls are left of it, and they go with the question
                body_is_gone(request)
            asked.warnings.extend(picture_warnings(pictures))
            return engine_messages(body.messages, pictures)

        question = Question(
            request=engine_request(body, asked.request_id, visit.caller),
            pictures=picture_urls(body.messages),
            messages=messages,
        )
        events = inference.answer(model, visit, question)
        if not body.stream:
            return await _whole(events, asked, request)
        return await _streamed(events, asked)

    @router.api_route("/{rest:path}", methods=_METHODS, include_in_schema=False)
    async def nothing_else(rest: str, request: Request) -> Response:
        allowed = _ROUTES.get(rest)
        if allowed is None:
            return plain_error(404, f"there is no {request.method} /v1/{rest[:200]} here")
        refused = plain_error(405, f"/v1/{rest} accepts only {allowed}")
        refused.headers["Allow"] = allowed
        return refused

    return router


async def _whole(events: AsyncGenerator[Event, None], asked: _Asked, request: Request) -> Response:
    """Return the answer in one piece; a client that leaves ends the work on it."""
    answering = asyncio.create_task(_collect(events))
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            return Response(status_code=499)
        answer = answering.result()
    finally:
        answering.cancel()
        leaving.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)
    choice = Choice(
        message=AnswerMessage(content=answer.text),
        logprobs=answer.odds_since(0) if asked.odds else None,
        finish_reason=answer.finish_reason,
        token_ids=tuple(answer.token_ids),
    )
    whole = ChatCompletion(
        id=asked.request_id,
        created=asked.created,
        model=asked.model,
        choices=(choice,),
        usage=answer.usage,
        warnings=tuple(asked.warnings),
    )
    hidden: dict[str, Any] = {} if asked.token_ids else {"choices": {0: {"token_ids"}}}
    if not asked.warnings:
        hidden["warnings"] = True
    return Response(whole.model_dump_json(exclude=hidden), media_type="application/json")


async def _collect(events: AsyncGenerator[Event, None]) -> Answer:
    answer = Answer()
    async with aclosing(events):
        async for event in events:
            answer.take(event)
    return answer


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _streamed(events: AsyncGenerator[Event, None], asked: _Asked) -> Response:
    """Return the stream once its first event is known, or known to take a while."""
    pieces = _pieces(paced(events, _FIRST_EVENT_S), asked)
    head = await anext(pieces)
    return StreamingResponse(
        _joined(head, pieces),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _joined(head: str, pieces: AsyncGenerator[str, None]) -> AsyncIterator[str]:
    async with aclosing(pieces):
        yield head
        async for piece in pieces:
            yield piece


async def _pieces(
    events: AsyncGenerator[Event | None, None], asked: _Asked
) -> AsyncGenerator[str, None]:
    answer = Answer()
    opened = False
    told = 0
    quiet_s = 0.0
    try:
        async with aclosing(events):
            async for event in events:
                quiet_s = quiet_s + _FIRST_EVENT_S if event is None else 0.0
                text = answer.take(event) if event else ""
                odds, told = answer.odds[told:], len(answer.odds)
                if not opened:
                    opened = True
                    yield _chunk(asked, {"role": "assistant", "content": text}, odds=odds)
                elif text or odds:
                    yield _chunk(asked, {"content": text}, odds=odds)
                elif quiet_s >= _PING_S:
                    quiet_s = 0.0
                    yield ": still working\n\n"
        yield _chunk(asked, {}, ended=answer)
        if asked.include_usage:
            yield _chunk(asked, None, usage=answer.usage.model_dump())
        yield "data: [DONE]\n\n"
    except PackError as error:
        if not opened:
            raise
        yield _failure(describe(error, asked.request_id)[1])
    except Exception:
        if not opened:
            raise
        _log.exception("request %s failed", asked.request_id)
        yield _failure(internal_error(asked.request_id))


def _chunk(
    asked: _Asked,
    delta: Mapping[str, Any] | None,
    *,
    odds: Sequence[TokenOdds] = (),
    ended: Answer | None = None,
    usage: Mapping[str, Any] | None = None,
) -> str:
    choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": None}
    if odds:
        choice["logprobs"] = {"content": [one.model_dump() for one in odds], "refusal": None}
    choice["finish_reason"] = ended.finish_reason if ended else None
    if ended and asked.token_ids:
        choice["token_ids"] = ended.token_ids
    body: dict[str, Any] = {
        "id": asked.request_id,
        "object": "chat.completion.chunk",
        "created": asked.created,
        "model": asked.model,
        "choices": [] if delta is None else [choice],
    }
    if ended and asked.warnings:
        body["warnings"] = asked.warnings
    if asked.include_usage:
        body["usage"] = usage
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _failure(body: ErrorBody) -> str:
    return f"data: {ErrorEnvelope(error=body).model_dump_json()}\n\n"
