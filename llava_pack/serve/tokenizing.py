"""`POST /tokenize`: what a conversation, or a text, becomes for a model. As vLLM has it.

Source: vllm entrypoints/openai/protocol.py, TokenizeChatRequest and TokenizeResponse.
"""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from llava_pack.engine.port import Message, Request
from llava_pack.engine.templates import RAW
from llava_pack.serve.answers import engine_messages, picture_urls
from llava_pack.serve.failures import ErrorEnvelope
from llava_pack.serve.fairness import Shared
from llava_pack.serve.openai import find_model
from llava_pack.serve.pictures import PictureDecoder
from llava_pack.serve.visits import visit_of
from llava_pack.serve.wire import TokenizeRequest, TokenList

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorEnvelope} for status in (400, 401, 403, 404, 413, 421, 429, 500, 503)
}


def tokenize_router(models: Mapping[str, Shared], decoder: PictureDecoder) -> APIRouter:
    """Return the route."""
    router = APIRouter(responses=_ERRORS)

    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest, request: HttpRequest) -> TokenList:
        model = find_model(models, body.model)
        visit = visit_of(request.scope)
        caller = visit.caller
        model.admit(caller)
        visit.model = model.name
        asked = f"tokenize-{request.state.request_id}"
        if body.prompt is not None:
            text = (Message("user", (body.prompt,)),)
            ids = await model.tokenize(Request(request_id=asked, messages=text, conv_mode=RAW))
        else:
            urls = picture_urls(body.messages)
            with closing(await decoder.admitted(urls, caller)) as admitted:
                messages = engine_messages(body.messages, admitted.pictures)
                ids = await model.tokenize(Request(request_id=asked, messages=messages))
        limit = model.info.context_tokens if model.info else 0
        return TokenList(count=len(ids), max_model_len=limit, tokens=ids)

    return router
