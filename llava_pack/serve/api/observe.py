"""`POST /observe`: a question with everything that health compares of its answer.

The answer comes through the same engine and queue as everybody's; nothing that is kept of earlier
questions is used for it.
"""

from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from llava_pack.engine.known.questions import TOP, answer_of
from llava_pack.engine.port import EngineInfo, Message, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.format import records
from llava_pack.format.errors import ServeError
from llava_pack.serve.admission.fair_models import Shared
from llava_pack.serve.api.inference import Inference, Question, visit_with
from llava_pack.serve.api.pictures import SentPicture
from llava_pack.serve.api.wire import ObservationRequest
from llava_pack.serve.engines.client import deltas_of
from llava_pack.serve.errors import ERRORS


def observation_router(inference: Inference) -> APIRouter:
    """Return the route."""
    router = APIRouter(responses=ERRORS)

    @router.post("/observe")
    async def observe(body: ObservationRequest, http: HttpRequest) -> dict[str, Any]:
        model = inference.find(body.model)
        visit = visit_with(http)
        question = Question(
            Request(
                request_id=f"observe-{http.state.request_id}",
                messages=(),
                sampling=Sampling(max_tokens=body.max_tokens, logprobs=TOP),
                salt=http.state.request_id,
            ),
            pictures=() if body.picture is None else (SentPicture(body.picture, "picture"),),
            messages=lambda pictures: (Message("user", (*pictures, body.prompt)),),
        )
        async with model.turn(visit.caller):
            async with inference.request(model, visit, question) as request:
                visit.asks(request)
                deltas = await deltas_of(visit.counted(model.name, model.generate(request)))
                trace = await model.trace(request)
            seen = answer_of(_info(model), request, deltas, trace)
        return {**records.encode(seen), "answer": body.name}

    return router


def _info(model: Shared) -> EngineInfo:
    if model.info is None:
        raise ServeError("the model is not ready", subject=model.name)
    return model.info
