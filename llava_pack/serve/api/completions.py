"""`POST /v1/completions`: prompts that are continued as they are, without a template.

Source: OpenAI API reference, "Create completion"; vllm entrypoints/openai/protocol.py for what
clients send beside it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from llava_pack.engine.limits import MAX_TOP_LOGPROBS
from llava_pack.format.errors import UsageError
from llava_pack.serve.api.answering import ask, reply
from llava_pack.serve.api.inference import Inference, visit_with
from llava_pack.serve.api.parts import MAX_TEXT_CHARS
from llava_pack.serve.api.request_fields import refuse_but
from llava_pack.serve.api.translation import Answer, chat_request, usage_of
from llava_pack.serve.api.wire import FinishReason, TokenOdds, UsageCount
from llava_pack.serve.api.writer import DONE, AnswerHead, failure_sent, head_of, server_sent
from llava_pack.serve.errors import ERRORS, ErrorBody, name_fields
from llava_pack.serve.validation import wrong

_MAX_PROMPTS = 32
_MAX_ANSWERS = 32
"""Of all prompts together: each is a request of its own to the engine."""
_DEFAULT_TOKENS = 16
_OWN = frozenset({"prompt", "suffix", "echo", "logprobs"})
_OF_CONVERSATIONS: Mapping[str, tuple[object, ...]] = {
    "messages": (),
    "add_generation_prompt": (),
    "continue_final_message": (),
    "return_token_ids": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "top_logprobs": (),
}
_NAMES = {"messages": "prompt", "top_logprobs": "logprobs"}


def _as_prompts(prompt: Any) -> Any:
    if isinstance(prompt, list) and any(isinstance(part, int | list) for part in prompt):
        raise wrong("token ids are not supported; expected a text, or a list of texts")
    return [prompt] if isinstance(prompt, str) else prompt


_Prompt = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]


class CompletionRequest(BaseModel):
    """The body of `POST /v1/completions`; other fields are those of chat completions."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: Annotated[str, Field(min_length=1)]
    prompt: Annotated[
        tuple[_Prompt, ...],
        Field(min_length=1, max_length=_MAX_PROMPTS, fail_fast=True),
        BeforeValidator(_as_prompts, json_schema_input_type=str | tuple[_Prompt, ...]),
    ]
    max_tokens: int | None = None
    stream: bool | None = None
    echo: bool | None = None
    suffix: str | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_of_conversations(cls, values: Any) -> Any:
        refuse_but(values, _OF_CONVERSATIONS)
        return values

    @model_validator(mode="after")
    def _only_what_can_be(self) -> Self:
        if self.suffix:
            raise wrong("is not supported: text is only added at the end; leave it out", "suffix")
        if self.echo and self.logprobs is not None:
            raise wrong("with logprobs is not supported: a prompt's odds are not computed", "echo")
        return self

    @property
    def as_chat(self) -> dict[str, Any]:
        """Return the fields that chat completions have too."""
        fields = {name: value for name, value in self if name not in _OWN}
        odds = self.logprobs is not None
        return {
            **fields,
            "max_tokens": self.max_tokens or _DEFAULT_TOKENS,
            "messages": [{"role": "user", "content": "-"}],
            "logprobs": odds or None,
            "top_logprobs": self.logprobs if odds else None,
        }


class CompletionOdds(BaseModel):
    """The odds of a text, token by token, in four lists."""

    tokens: list[str] = Field(default_factory=list)
    token_logprobs: list[float] = Field(default_factory=list)
    top_logprobs: list[dict[str, float]] = Field(default_factory=list)
    text_offset: list[int] = Field(default_factory=list)


class CompletionChoice(BaseModel):
    """One prompt's text."""

    index: int
    text: str
    logprobs: CompletionOdds | None = None
    finish_reason: FinishReason | None


class Completion(BaseModel):
    """Texts, whole or a piece of one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageCount | None = None


def completions_router(inference: Inference) -> APIRouter:
    """Return the route."""
    router = APIRouter(prefix="/v1", responses=ERRORS)

    @router.post("/completions", response_model=Completion)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        name_fields(request, _NAMES)
        asked = chat_request(body.as_chat)
        each = asked.n or 1
        _admit(inference, body, request, each)
        writer = CompletionWriter(
            head_of(request, "cmpl", inference.called(body.model)),
            echo=[text for prompt in body.prompt for text in [prompt if body.echo else ""] * each],
            each=each,
            odds=asked.odds is not None,
            include_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        )
        choices = [
            choice
            for number, prompt in enumerate(body.prompt)
            for choice in ask(
                inference, asked, writer.head, request, prompt=prompt, index=number * each
            )
        ]
        return await reply(choices, writer, request, stream=bool(body.stream))

    return router


def _admit(inference: Inference, body: CompletionRequest, request: Request, each: int) -> None:
    """Refuse prompts that have more answers than can wait, before the first one begins.

    Raises:
        HTTPException: 404, there is no such model.
        UsageError: there are never so many.
        PackError: there is no room for so many just now.
    """
    count, field = len(body.prompt) * each, "prompt" if len(body.prompt) > 1 else "n"
    if count > _MAX_ANSWERS:
        raise UsageError(
            f"expected at most {_MAX_ANSWERS} answers, got {len(body.prompt)} prompts with {each}",
            subject=field,
            hint="send fewer prompts, or a smaller n",
        )
    inference.admit(body.model, visit_with(request), count, field)


@dataclass(frozen=True)
class CompletionWriter:
    """Writes completions, and their pieces as server-sent events."""

    head: AnswerHead
    echo: Sequence[str]
    """What is written before each text: its prompt, or nothing."""
    each: int = 1
    """How many choices one prompt has."""
    odds: bool = False
    include_usage: bool = False
    media_type: str = "text/event-stream"
    _written: dict[int, int] = field(default_factory=dict)
    """How many characters there are of each choice, with its echo."""

    def whole(self, choices: Sequence[Answer]) -> str:
        """Return the texts as one object."""
        texts = [
            CompletionChoice(
                index=index,
                text=self.echo[index] + answer.text,
                logprobs=_odds(answer.odds, 0) if self.odds else None,
                finish_reason=answer.finish_reason,
            )
            for index, answer in enumerate(choices)
        ]
        return self._completion(texts, usage_of(choices, self.each)).model_dump_json()

    def opening(self) -> Iterable[str]:
        """Return the prompts, where they are asked for."""
        yield from self.ping()
        for index, prompt in enumerate(self.echo):
            self._written[index] = len(prompt)
            if prompt:
                yield self._piece(CompletionChoice(index=index, text=prompt, finish_reason=None))

    def piece(self, index: int, text: str, odds: Sequence[TokenOdds]) -> Iterable[str]:
        """Return a piece of a text."""
        if not (text or odds):
            return
        told = _odds(odds, self._written.get(index, 0)) if self.odds else None
        self._written[index] = self._written.get(index, 0) + len(text)
        choice = CompletionChoice(index=index, text=text, logprobs=told, finish_reason=None)
        yield self._piece(choice)

    def ended(self, index: int, choice: Answer) -> Iterable[str]:
        """Return the reason of the end."""
        yield self._piece(
            CompletionChoice(index=index, text="", finish_reason=choice.finish_reason)
        )

    def closing(self, choices: Sequence[Answer]) -> Iterable[str]:
        """Return the count of tokens, where it is asked for, and the end."""
        if self.include_usage:
            yield server_sent(self._completion([], usage_of(choices, self.each)).model_dump())
        yield DONE

    def failure(self, error: ErrorBody) -> Iterable[str]:
        """Return an event with the error."""
        yield failure_sent(error)

    def ping(self) -> Iterable[str]:
        """Return a comment."""
        yield ": working\n\n"

    def _piece(self, choice: CompletionChoice) -> str:
        return server_sent(self._completion([choice], None).model_dump())

    def _completion(self, choices: list[CompletionChoice], usage: UsageCount | None) -> Completion:
        head = self.head
        return Completion(
            id=head.request_id,
            created=head.created,
            model=head.model,
            choices=choices,
            usage=usage,
        )


def _odds(odds: Sequence[TokenOdds], offset: int) -> CompletionOdds:
    """Return the odds of tokens in the older form.

    Args:
        odds: one by one.
        offset: of the first token, in the characters of the text.
    """
    told = CompletionOdds()
    for one in odds:
        told.tokens.append(one.token)
        told.token_logprobs.append(one.logprob)
        told.top_logprobs.append({likely.token: likely.logprob for likely in one.top_logprobs})
        told.text_offset.append(offset)
        offset += len(one.token)
    return told
