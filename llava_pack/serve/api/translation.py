"""From wire to engine and back: requests, and an answer as it grows."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from llava_pack.engine.measures import Likely, Odds, Usage
from llava_pack.engine.port import Delta, Event, Failed, Finished, Message, Picture, Request, Role
from llava_pack.format.errors import ServeError, UsageError
from llava_pack.serve.api.messages import ChatMessage, reads_calls
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
    def counted(self) -> Usage:
        """The tokens counted, zero before the end."""
        return self.ended.usage if self.ended else Usage(0, 0)

    @property
    def usage(self) -> UsageCount:
        """The tokens counted of it alone."""
        return usage_of((self,))

    def odds_since(self, count: int) -> ChoiceOdds:
        """Return the odds of the tokens after the first `count`."""
        return ChoiceOdds(content=tuple(self.odds[count:]))


def usage_of(choices: Sequence[Answer], each: int = 1) -> UsageCount:
    """Return what the choices took together.

    Args:
        choices: in their order.
        each: how many of them one prompt has, which counts once.
    """
    prompts, new = choices[::each], sum(one.counted.completion_tokens for one in choices)
    read = sum(one.counted.prompt_tokens for one in prompts)
    cached = sum(one.counted.cached_tokens for one in prompts)
    return UsageCount(
        prompt_tokens=read,
        completion_tokens=new,
        total_tokens=read + new,
        prompt_tokens_details=PromptDetails(cached_tokens=cached),
    )


def chat_request(fields: Mapping[str, Any]) -> ChatRequest:
    """Return what another dialect asks, as a conversation's request.

    Args:
        fields: as `POST /v1/chat/completions` has them; those without a value are left out.

    Raises:
        RequestValidationError: a value is wrong; it names the field of a chat completion.
    """
    try:
        return ChatRequest.model_validate({k: v for k, v in fields.items() if v is not None})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise RequestValidationError(
            [{**one, "loc": ("body", *one["loc"])} for one in problems], body=fields
        ) from error


def engine_request(body: ChatRequest, request_id: str, caller: Caller) -> Request:
    """Return what the engine is asked, still without the conversation: see `engine_messages`.

    Args:
        body: what was sent.
        request_id: of the answer.
        caller: who asks; what the engine keeps is reused within their salt only.

    Raises:
        UsageError: numbers contradict each other, or more than one thing holds the answer.
    """
    holds = body.holds
    return Request(
        request_id=request_id,
        messages=(),
        salt=_salt(caller, body.cache_salt),
        new_turn=body.new_turn,
        sampling=body.sampling(logprobs=body.odds, grammar=holds[1] if holds else None),
    )


def _salt(caller: Caller, own: str | None) -> str:
    """Return within what prefixes are reused: within one key, and what it tells apart itself."""
    if own is None:
        return caller.salt
    return hashlib.sha256(f"{caller.salt}\0{own}".encode()).hexdigest()


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

    Raises:
        UsageError: none says anything.
    """
    decoded = iter(pictures)
    taken: list[Message] = []
    read = reads_calls(messages)
    for message in messages:
        role = _ROLES[message.role]
        sent = message.parts(read=read)
        parts = tuple(part if isinstance(part, str) else next(decoded) for part in sent)
        if parts or role == "user":
            taken.append(Message(role, parts or ("",)))
    if not taken:
        raise UsageError("no message says anything; expected a question", subject="messages")
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
