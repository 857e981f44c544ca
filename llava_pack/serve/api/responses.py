"""`POST /v1/responses`: OpenAI's newer way to ask, without what a server would have to keep.

Source: OpenAI API reference, "Create a model response" and "Streaming events" of it.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic_core import PydanticCustomError

from llava_pack.serve.api.answering import answer_chat
from llava_pack.serve.api.inference import Inference
from llava_pack.serve.api.responses_wire import (
    InputDetails,
    ModelResponse,
    OutputDetails,
    OutputMessage,
    OutputText,
    ResponsesRequest,
    ResponseUsage,
)
from llava_pack.serve.api.translation import Answer, chat_request
from llava_pack.serve.api.wire import ChatRequest, TokenOdds, UsageCount
from llava_pack.serve.api.writer import AnswerHead, head_of, server_sent
from llava_pack.serve.errors import ERRORS, ErrorBody, name_fields


def responses_router(inference: Inference) -> APIRouter:
    """Return the route."""
    router = APIRouter(prefix="/v1", responses=ERRORS)

    @router.post("/responses", response_model=ModelResponse)
    async def respond(body: ResponsesRequest, request: Request) -> Response:
        asked = _chat(body, request)
        head = head_of(request, "resp", inference.called(body.model))
        writer = ResponseWriter(head, _echoed(body, asked), odds=asked.odds is not None)
        return await answer_chat(inference, asked, writer, request)

    return router


def _chat(body: ResponsesRequest, request: Request) -> ChatRequest:
    try:
        fields = body.as_chat
    except PydanticCustomError as error:
        problem = {"loc": ("body",), "type": error.type, "ctx": error.context}
        raise RequestValidationError([problem]) from error
    name_fields(request, body.field_names)
    return chat_request(fields)


def _echoed(body: ResponsesRequest, asked: ChatRequest) -> dict[str, Any]:
    """Return what an answer repeats of its request."""
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "temperature": asked.temperature or 0.0,
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
        "text": {"format": (body.text and body.text.format) or {"type": "text"}},
    }


@dataclass(frozen=True)
class ResponseWriter:
    """Writes a response, and its events as server-sent ones with names."""

    head: AnswerHead
    echoed: Mapping[str, Any]
    odds: bool = False
    media_type: str = "text/event-stream"
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def whole(self, choices: Sequence[Answer]) -> str:
        """Return the response as one object."""
        return self._ended(choices[0]).model_dump_json()

    def opening(self) -> Iterable[str]:
        """Return that it was taken, and that a text begins."""
        begun = self._response("in_progress").model_dump()
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)
        item = self._item("in_progress").model_dump()
        yield self._event("response.output_item.added", output_index=0, item=item)
        part = OutputText(text="").model_dump()
        yield self._event("response.content_part.added", **self._place, part=part)

    def piece(self, index: int, text: str, odds: Sequence[TokenOdds]) -> Iterable[str]:  # noqa: ARG002 - there is one
        """Return a piece of the text."""
        told = [one.model_dump() for one in odds] if self.odds else []
        if text or told:
            yield self._event(
                "response.output_text.delta", **self._place, delta=text, logprobs=told
            )

    def ended(self, index: int, choice: Answer) -> Iterable[str]:  # noqa: ARG002 - there is one
        """Return the whole text, and what holds it."""
        response = self._ended(choice)
        [item] = response.output
        [part] = item.content
        told = {"text": part.text, "logprobs": part.logprobs}
        yield self._event("response.output_text.done", **self._place, **told)
        yield self._event("response.content_part.done", **self._place, part=part.model_dump())
        yield self._event("response.output_item.done", output_index=0, item=item.model_dump())

    def closing(self, choices: Sequence[Answer]) -> Iterable[str]:
        """Return the response as a whole."""
        response = self._ended(choices[0])
        yield self._event(f"response.{response.status}", response=response.model_dump())

    def failure(self, error: ErrorBody) -> Iterable[str]:
        """Return the error, as the one event that every client raises."""
        told = {"code": error.code, "message": error.message, "param": error.param}
        yield self._event("error", **told, error=error.model_dump())

    def ping(self) -> Iterable[str]:
        """Return a comment."""
        yield ": still working\n\n"

    def _event(self, kind: str, **fields: Any) -> str:
        body = {"type": kind, "sequence_number": next(self._numbers), **fields}
        return server_sent(body, kind)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    @property
    def _item_id(self) -> str:
        return f"msg_{self.head.request_id}"

    def _item(self, status: Any, *content: OutputText) -> OutputMessage:
        return OutputMessage(id=self._item_id, status=status, content=list(content))

    def _ended(self, answer: Answer) -> ModelResponse:
        cut = answer.finish_reason == "length"
        status = "incomplete" if cut else "completed"
        odds = [one.model_dump() for one in answer.odds] if self.odds else []
        return self._response(
            status,
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            output=[self._item(status, OutputText(text=answer.text, logprobs=odds))],
            usage=_usage(answer.usage),
        )

    def _response(self, status: Any, **fields: Any) -> ModelResponse:
        head = self.head
        return ModelResponse(
            id=head.request_id,
            created_at=head.created,
            model=head.model,
            status=status,
            warnings=head.warnings,
            **self.echoed,
            **fields,
        )


def _usage(counted: UsageCount) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=counted.prompt_tokens,
        input_tokens_details=InputDetails(
            cached_tokens=counted.prompt_tokens_details.cached_tokens
        ),
        output_tokens=counted.completion_tokens,
        output_tokens_details=OutputDetails(),
        total_tokens=counted.total_tokens,
    )
