"""From wire to engine and back: requests, and an answer as it grows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from llava_pack.engine.measures import Likely, Odds, Usage
from llava_pack.engine.port import Delta, Event, Failed, Finished, Message, Picture, Request, Role
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import ServeError, UsageError
from llava_pack.serve.api.messages import ChatMessage
from llava_pack.serve.api.pictures import SentPicture, check_count
from llava_pack.serve.api.wire import (
    ChatRequest,
    ChoiceOdds,
    FinishReason,
    LikelyToken,
    PromptDetails,
    TokenOdds,
    UsageCount,
)
from llava_pack.serve.caller import Caller

_NEVER = -9999.0
"""JSON has no minus infinity. Source: OpenAI API reference, logprobs."""
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
    "function": "user",
}


@dataclass(kw_only=True)
class Answer:
    """An answer as it grows."""

    pieces: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    odds: list[TokenOdds] = field(default_factory=list)
    ended: Finished | None = None

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.pieces)

    def take(self, event: Event) -> str:
        """Add an event and return its text.

        Raises:
            PackError: the request failed; in the error's own class.
        """
        match event:
            case Delta():
                self.pieces.append(event.text)
                self.token_ids.extend(event.token_ids)
                self.odds.extend(_token_odds(odds) for odds in event.odds)
                return event.text
            case Failed():
                raise event.error()
            case Finished():
                self.ended = event
                return ""

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended.

        Raises:
            ServeError: it was cut off.
        """
        return self._end()

    def check_end(self) -> None:
        """Check that it came to its end.

        Raises:
            ServeError: it was cut off.
        """
        self._end()

    def _end(self) -> FinishReason:
        if self.ended is None or self.ended.reason == "cancelled":
            raise ServeError("the answer was interrupted", hint="send the request again")
        return self.ended.reason

    @property
    def usage(self) -> UsageCount:
        """The tokens counted, zero before the end."""
        counted = self.ended.usage if self.ended else Usage(0, 0)
        return UsageCount(
            prompt_tokens=counted.prompt_tokens,
            completion_tokens=counted.completion_tokens,
            total_tokens=counted.prompt_tokens + counted.completion_tokens,
            prompt_tokens_details=PromptDetails(cached_tokens=counted.cached_tokens),
        )

    def odds_since(self, count: int) -> ChoiceOdds:
        """Return the odds of the tokens after the first `count`."""
        return ChoiceOdds(content=tuple(self.odds[count:]))


def usage_of(choices: Sequence[Answer]) -> UsageCount:
    """Return what the choices took together, each with a prompt of its own."""
    counts = [choice.usage for choice in choices]
    cached = sum(one.prompt_tokens_details.cached_tokens for one in counts)
    return UsageCount(
        prompt_tokens=sum(one.prompt_tokens for one in counts),
        completion_tokens=sum(one.completion_tokens for one in counts),
        total_tokens=sum(one.total_tokens for one in counts),
        prompt_tokens_details=PromptDetails(cached_tokens=cached),
    )


def chat_request(fields: Mapping[str, Any], theirs: Mapping[str, str]) -> ChatRequest:
    """Return what another dialect asks, as a conversation's request.

    Args:
        fields: as `POST /v1/chat/completions` has them; those without a value are left out.
        theirs: how the dialect calls them, where it has another name.

    Raises:
        RequestValidationError: a value is wrong; it names the dialect's field.
    """
    try:
        return ChatRequest.model_validate({k: v for k, v in fields.items() if v is not None})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise RequestValidationError([_renamed(one, theirs) for one in problems]) from error


def _renamed(problem: Mapping[str, Any], theirs: Mapping[str, str]) -> dict[str, Any]:
    """Return what is wrong with the field's name in the dialect."""
    name, *rest = problem["loc"] or ("body",)
    how = dict(problem.get("ctx", {}))
    if below := how.get("below"):
        field, dot, more = below.partition(".")
        how["below"] = f"{theirs.get(field, field)}{dot}{more}"
    return {**problem, "loc": (theirs.get(str(name), name), *rest), "ctx": how}


def engine_request(body: ChatRequest, request_id: str, caller: Caller) -> Request:
    """Return what the engine is asked, still without the conversation: see `engine_messages`.

    Args:
        body: what was sent.
        request_id: of the answer.
        caller: who asks; what the engine keeps is reused within their salt only.

    Raises:
        UsageError: a number is out of its range.
    """
    return Request(
        request_id=request_id,
        messages=(),
        salt=caller.salt,
        new_turn=body.new_turn,
        sampling=Sampling(
            temperature=body.temperature or 0.0,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=None if body.seed is None else body.seed % 2**63,
            max_tokens=body.answer_tokens,
            stop=body.stop or (),
            logprobs=body.odds,
        ),
    )


def picture_urls(messages: Sequence[ChatMessage]) -> tuple[SentPicture, ...]:
    """Return the pictures of a conversation in their order, as they came.

    Raises:
        UsageError: one stands where none can, or there are too many.
    """
    pictures: list[SentPicture] = []
    for index, message in enumerate(messages):
        for below, url in message.pictures:
            place = f"messages.{index}.{below}"
            if _ROLES[message.role] != "user":
                raise UsageError(
                    f"a picture in a message of role {message.role}; expected role user or tool",
                    subject=place,
                    hint="send it in a message of role user: models are trained with it there",
                )
            pictures.append(SentPicture(url, place))
    check_count(len(pictures))
    return tuple(pictures)


def engine_messages(
    messages: Sequence[ChatMessage], pictures: Iterable[Picture]
) -> tuple[Message, ...]:
    """Return a conversation as the engine takes it: tool results are texts of the user's.

    A message of the system's or the assistant's that says nothing is left out.

    Args:
        messages: as they came.
        pictures: those of `picture_urls`, decoded.
    """
    decoded = iter(pictures)
    taken: list[Message] = []
    for message in messages:
        role = _ROLES[message.role]
        parts = tuple(part if isinstance(part, str) else next(decoded) for part in message.parts)
        if parts or role == "user":
            taken.append(Message(role, parts or ("",)))
    return tuple(taken)


def _token_odds(odds: Odds) -> TokenOdds:
    chosen = _likely(odds.chosen)
    return TokenOdds(
        **dict(chosen), top_logprobs=tuple(_likely(likely) for likely in odds.likeliest)
    )


def _likely(likely: Likely) -> LikelyToken:
    logprob = max(likely.logprob, _NEVER)
    text = likely.data.decode(errors="replace")
    return LikelyToken(token=text, logprob=logprob, bytes=tuple(likely.data) or None)
