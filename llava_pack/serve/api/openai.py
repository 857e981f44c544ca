"""The OpenAI-compatible API: `/v1/chat/completions` and `/v1/models`.

Source: OpenAI API reference, "Create chat completion", "Streaming"; WHATWG HTML, "Server-sent
events" for comments.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from llava_pack.serve.api.answering import answer_chat
from llava_pack.serve.api.inference import Inference
from llava_pack.serve.api.tools import CallText
from llava_pack.serve.api.translation import Answer, usage_of
from llava_pack.serve.api.wire import (
    AnsweredCall,
    AnsweredFunction,
    AnswerMessage,
    ChatCompletion,
    ChatRequest,
    Choice,
    FinishReason,
    ModelCard,
    ModelList,
    TokenOdds,
    UsageCount,
)
from llava_pack.serve.api.writer import DONE, AnswerHead, failure_sent, head_of, server_sent
from llava_pack.serve.errors import ERRORS, ErrorBody


def openai_router(inference: Inference) -> APIRouter:
    """Return the routes under `/v1`."""
    router = APIRouter(prefix="/v1", responses=ERRORS)
    started, named = int(time.time()), inference.names_of

    def card(name: str, model: str) -> ModelCard:
        info = inference.models[model].info
        limit = info.context_tokens if info else None
        return ModelCard(id=name, created=started, root=model, max_model_len=limit)

    @router.get("/models")
    async def list_models() -> ModelList:
        cards = (card(name, model) for model in inference.models for name in named(model))
        return ModelList(data=tuple(cards))

    @router.get("/models/{name:path}")
    async def show_model(name: str) -> ModelCard:
        return card(name, inference.find(name).name)

    @router.post("/chat/completions", response_model=ChatCompletion)
    async def chat(body: ChatRequest, request: Request) -> Response:
        writer = ChatWriter(
            head_of(request, "chatcmpl", inference.called(body.model)),
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
            token_ids=bool(body.return_token_ids),
            odds=body.odds is not None,
            choices=body.n or 1,
            called=None if not body.forced else body.tool_choice == "required",
        )
        return await answer_chat(inference, body, writer, request)

    return router


@dataclass(frozen=True)
class ChatWriter:
    """Writes chat completions, and their chunks as server-sent events.

    `called` is None where the answer is a text. Where it is a forced call, it says whether that is
    the reason of its end, as it is unless the client itself named the function.
    """

    head: AnswerHead
    include_usage: bool = False
    token_ids: bool = False
    odds: bool = False
    called: bool | None = None
    choices: int = 1
    calls: dict[int, CallText] = field(default_factory=dict)
    """Of a stream, by the number of the choice."""
    media_type: str = "text/event-stream"

    def whole(self, choices: Sequence[Answer]) -> str:
        """Return the answer as one object."""
        head = self.head
        completion = ChatCompletion(
            id=head.request_id,
            created=head.created,
            model=head.model,
            choices=tuple(self._choice(*one) for one in enumerate(choices)),
            usage=self._usage(choices),
            warnings=tuple(head.warnings),
        )
        unasked = set() if self.token_ids else {"token_ids"}
        texts = {"message": {"tool_calls"}} if self.called is None else {}
        hidden: dict[str, Any] = {"choices": {"__all__": dict.fromkeys(unasked, True) | texts}}
        if not head.warnings:
            hidden["warnings"] = True
        return completion.model_dump_json(exclude=hidden)

    def _usage(self, choices: Sequence[Answer]) -> UsageCount:
        return usage_of(choices, self.choices)

    def _choice(self, index: int, answer: Answer) -> Choice:
        return Choice(
            index=index,
            message=self._message(index, answer.text),
            logprobs=answer.odds_since(0) if self.odds else None,
            finish_reason=self._reason(answer),
            token_ids=tuple(answer.token_ids),
        )

    def _message(self, index: int, text: str) -> AnswerMessage:
        if self.called is None:
            return AnswerMessage(content=text)
        call = CallText()
        function = AnsweredFunction(arguments=call.push(text), name=call.name)
        return AnswerMessage(
            content=None, tool_calls=(AnsweredCall(id=self._call_id(index), function=function),)
        )

    def _reason(self, answer: Answer) -> FinishReason:
        whole = answer.finish_reason == "stop"
        return "tool_calls" if self.called and whole else answer.finish_reason

    def _call_id(self, index: int) -> str:
        return f"call_{self.head.request_id.removeprefix('chatcmpl-')}-{index}"

    def opening(self) -> Iterable[str]:
        """Return the chunks that tell who speaks."""
        content = "" if self.called is None else None
        for index in range(self.choices):
            yield self._chunk(index, {"role": "assistant", "content": content})

    def piece(self, index: int, text: str, odds: Sequence[TokenOdds]) -> Iterable[str]:
        """Return the chunk of a step."""
        if self.called is not None:
            yield from self._call_piece(index, text, odds)
        elif text or odds:
            yield self._chunk(index, {"content": text}, odds=odds)

    def _call_piece(self, index: int, text: str, odds: Sequence[TokenOdds]) -> Iterable[str]:
        """Return the chunk of a step of a call: its name first, then its arguments as they come."""
        call = self.calls.setdefault(index, CallText())
        named = bool(call.name)
        arguments = call.push(text)
        piece: dict[str, Any] = {"index": 0, "function": {"arguments": arguments}}
        if call.name and not named:
            piece |= {"id": self._call_id(index), "type": "function"}
            piece["function"] = {"name": call.name, "arguments": arguments}
        elif not arguments:
            piece = {}
        if piece or odds:
            yield self._chunk(index, {"tool_calls": [piece]} if piece else {}, odds=odds)

    def ended(self, index: int, choice: Answer) -> Iterable[str]:
        """Return the chunk with the reason of the end."""
        yield self._chunk(index, {}, ended=choice)

    def closing(self, choices: Sequence[Answer]) -> Iterable[str]:
        """Return the count of tokens, where it is asked for, and the end."""
        if self.include_usage:
            yield server_sent(
                {**self._chunk_head(), "choices": [], "usage": self._usage(choices).model_dump()}
            )
        yield DONE

    def failure(self, error: ErrorBody) -> Iterable[str]:
        """Return an event with the error."""
        yield failure_sent(error)

    def ping(self) -> Iterable[str]:
        """Return a comment."""
        yield ": still working\n\n"

    def _chunk_head(self) -> dict[str, Any]:
        return {
            "id": self.head.request_id,
            "object": "chat.completion.chunk",
            "created": self.head.created,
            "model": self.head.model,
        }

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        *,
        odds: Sequence[TokenOdds] = (),
        ended: Answer | None = None,
    ) -> str:
        choice: dict[str, Any] = {"index": index, "delta": delta, "logprobs": None}
        if odds:
            choice["logprobs"] = {"content": [one.model_dump() for one in odds], "refusal": None}
        choice["finish_reason"] = self._reason(ended) if ended else None
        if ended and self.token_ids:
            choice["token_ids"] = ended.token_ids
        body = {**self._chunk_head(), "choices": [choice]}
        if ended and self.head.warnings:
            body["warnings"] = self.head.warnings
        if self.include_usage:
            body["usage"] = None
        return server_sent(body)
