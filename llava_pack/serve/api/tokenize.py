"""`POST /tokenize`: what a conversation, or a text, becomes for a model. As vLLM has it.

Source: vllm entrypoints/openai/protocol.py, TokenizeChatRequest and TokenizeResponse.
"""

from dataclasses import replace

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from llava_pack.checkpoint.templates import RAW
from llava_pack.engine.port import Message, Request
from llava_pack.serve.api.inference import Inference, Question, visit_with
from llava_pack.serve.api.translation import engine_messages, picture_urls
from llava_pack.serve.api.wire import TokenizeRequest, TokenList
from llava_pack.serve.errors import ERRORS


def tokenize_router(inference: Inference) -> APIRouter:
    """Return the route."""
    router = APIRouter(responses=ERRORS)

    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest, request: HttpRequest) -> TokenList:
        model = inference.find(body.model)
        visit = visit_with(request)
        model.admit(visit.caller)
        visit.model = model.name
        request_id = f"tokenize-{request.state.request_id}"
        asked = Request(request_id=request_id, messages=(), new_turn=body.new_turn)
        async with inference.request(model, visit, _question(body, asked)) as given:
            ids = await model.tokenize(given)
        limit = model.info.context_tokens if model.info else 0
        return TokenList(count=len(ids), max_model_len=limit, tokens=ids)

    return router


def _question(body: TokenizeRequest, asked: Request) -> Question:
    if body.prompt is not None:
        text = (Message("user", (body.prompt,)),)
        return Question(replace(asked, conv_mode=RAW), (), lambda _: text)
    urls = picture_urls(body.messages)
    return Question(asked, urls, lambda pictures: engine_messages(body.messages, pictures))
