"""`POST /observe`: a question with everything that health compares of its answer.

The answer comes through the same engine and queue as everybody's; nothing that is kept of earlier
questions is used for it.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from llava_pack.engine.port import (
    Delta,
    EngineInfo,
    Event,
    Failed,
    Message,
    Part,
    Request,
    Sampling,
)
from llava_pack.engine.questions import TOP, answer_of
from llava_pack.format import records
from llava_pack.format.errors import ServeError
from llava_pack.serve.models import Served
from llava_pack.serve.openai import find_model
from llava_pack.serve.pictures import PictureDecoder
from llava_pack.serve.visits import visit_of
from llava_pack.serve.wire import ErrorEnvelope, ObservationRequest

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorEnvelope} for status in (400, 401, 403, 404, 413, 421, 500, 503)
}


def observation_router(models: Mapping[str, Served], decoder: PictureDecoder) -> APIRouter:
    """Return the route."""
    router = APIRouter(responses=_ERRORS)

    @router.post("/observe")
    async def observe(body: ObservationRequest, http: HttpRequest) -> dict[str, Any]:
        model = find_model(models, body.model)
        model.admit()
        async with decoder.seated(int(body.picture is not None)):
            parts: tuple[Part, ...] = (body.prompt,)
            if body.picture is not None:
                parts = (await decoder.from_url(body.picture), body.prompt)
            request = Request(
                request_id=f"observe-{http.state.request_id}",
                messages=(Message("user", parts),),
                sampling=Sampling(max_tokens=body.max_tokens, logprobs=TOP),
                salt=http.state.request_id,
            )
            visit = visit_of(http.scope)
            deltas = await _deltas(visit.counted(model.name, request, model.generate(request)))
            seen = answer_of(_info(model), request, deltas, await model.trace(request))
        return {**records.encode(seen), "answer": body.name}

    return router


def _info(model: Served) -> EngineInfo:
    if model.info is None:
        raise ServeError("the model is not ready", subject=model.name)
    return model.info


async def _deltas(answering: AsyncGenerator[Event, None]) -> list[Delta]:
    deltas: list[Delta] = []
    async with aclosing(answering) as events:
        async for event in events:
            if isinstance(event, Failed):
                raise event.error()
            if isinstance(event, Delta):
                deltas.append(event)
    return deltas
