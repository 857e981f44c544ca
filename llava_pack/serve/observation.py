"""`POST /observe`: a question with everything that health compares of its answer.

The answer comes through the same engine and queue as everybody's; nothing that is kept of earlier
questions is used for it.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, closing
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from llava_pack.engine.port import (
    Delta,
    EngineInfo,
    Event,
    Failed,
    Message,
    Request,
    Sampling,
)
from llava_pack.engine.questions import TOP, answer_of
from llava_pack.format import records
from llava_pack.format.errors import ServeError
from llava_pack.serve.admission import drop_copies
from llava_pack.serve.failures import ErrorEnvelope
from llava_pack.serve.fairness import Shared
from llava_pack.serve.openai import find_model
from llava_pack.serve.pictures import PictureDecoder
from llava_pack.serve.visits import visit_of
from llava_pack.serve.wire import ObservationRequest

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorEnvelope} for status in (400, 401, 403, 404, 413, 421, 429, 500, 503)
}


def observation_router(models: Mapping[str, Shared], decoder: PictureDecoder) -> APIRouter:
    """Return the route."""
    router = APIRouter(responses=_ERRORS)

    @router.post("/observe")
    async def observe(body: ObservationRequest, http: HttpRequest) -> dict[str, Any]:
        model = find_model(models, body.model)
        drop_copies(http)
        visit = visit_of(http.scope)
        urls = () if body.picture is None else (body.picture,)
        async with model.turn(visit.caller):
            with closing(await decoder.admitted(urls, visit.caller)) as admitted:
                request = Request(
                    request_id=f"observe-{http.state.request_id}",
                    messages=(Message("user", (*admitted.pictures, body.prompt)),),
                    sampling=Sampling(max_tokens=body.max_tokens, logprobs=TOP),
                    salt=http.state.request_id,
                )
                visit.asks(request)
                deltas = await _deltas(visit.counted(model.name, model.generate(request)))
                trace = await model.trace(request)
            seen = answer_of(_info(model), request, deltas, trace)
        return {**records.encode(seen), "answer": body.name}

    return router


def _info(model: Shared) -> EngineInfo:
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
