"""What a request of any dialect asks of a model: one question with an answer or several."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from fastapi.responses import Response
from starlette.requests import Request as HttpRequest

from llava_pack.checkpoint.templates import RAW
from llava_pack.engine.picture_warnings import picture_warnings
from llava_pack.engine.port import Event, Failed, Message, Picture
from llava_pack.engine.sampling import GrammarError
from llava_pack.serve.admission.bodies import body_is_gone
from llava_pack.serve.api.answering import AnswerHead, Writer, reply
from llava_pack.serve.api.inference import Inference, Question, visit_with
from llava_pack.serve.api.tools import asking
from llava_pack.serve.api.translation import engine_messages, engine_request, picture_urls
from llava_pack.serve.api.wire import ChatRequest


async def answer_chat(
    inference: Inference, body: ChatRequest, writer: Writer, request: HttpRequest
) -> Response:
    """Return the answer to a conversation.

    Raises:
        HTTPException: 404, there is no such model.
        PackError: it cannot be answered; in the error's own class.
    """
    choices = ask(inference, body, writer.head, request)
    return await reply(choices, writer, request, stream=body.stream)


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
        question = Question(replace(asked, conv_mode=RAW), (), lambda _: raw)
    else:
        question = Question(asked, picture_urls(body.messages), messages)
    choices = inference.choices(model, visit, question, body.n or 1)
    if (holds := body.holds()) is not None:
        return [_blaming(holds[0], events) for events in choices]
    return choices


async def _blaming(field: str, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Yield events; where an engine cannot use a grammar, say which field it came in."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Failed) and event.kind == GrammarError.kind:
                raise GrammarError(event.message, subject=field, hint=event.hint)
            yield event
