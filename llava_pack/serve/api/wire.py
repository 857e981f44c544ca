"""Wire types of the OpenAI-compatible API, every number bounded.

Source: OpenAI API reference, "Create chat completion" and "Streaming".
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)

from llava_pack.engine.limits import MAX_SEED, MAX_STOP_CHARS, MAX_STOPS, MAX_TOP_LOGPROBS
from llava_pack.serve.api.messages import Messages, MessagesBody
from llava_pack.serve.api.parts import MAX_TEXT_CHARS
from llava_pack.serve.api.parts import Wire as _Wire

MAX_NAME_CHARS = 200
MAX_TOKENS = 131_072
MAX_PROMPT_CHARS = 4_000_000
_DEFAULT_TOKENS = 512
MAX_OBSERVED_TOKENS = 256
_NO_BOUND = -1
_LIKELIEST = 1e-6
"""A `top_p` below the odds of the likeliest token, which alone is left: what 0 means."""
_MAX_TEMPERATURE = 2.0
"""OpenAI's; the engine takes more."""
# Settings that would change the answer and are not there: refused, never ignored.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "echo": (False,),
}


class ObservationRequest(_Wire):
    """A known question: a prompt, and a picture as a data: URL."""

    model: str
    name: Annotated[str, Field(max_length=MAX_NAME_CHARS)]
    prompt: Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
    picture: str | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_OBSERVED_TOKENS)] = 64


class StreamOptions(_Wire):
    """What a stream ends with."""

    include_usage: bool = False


def _as_bound(tokens: Any) -> Any:
    """Return a bound on the answer: -1 is none but the context's, and 0 says nothing.

    Source: LM Studio's and llama.cpp's servers for -1; Ollama's for 0.
    """
    return {_NO_BOUND: MAX_TOKENS, 0: None}.get(tokens, tokens) if type(tokens) is int else tokens


def _as_stops(stop: Any) -> Any:
    """Return stop strings as a list, without empty ones, as llama.cpp's server takes them."""
    stops = [stop] if isinstance(stop, str) else stop
    return [text for text in stops if text != ""] if isinstance(stops, list) else stops


TokenBound = Annotated[
    Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None,
    BeforeValidator(
        _as_bound, json_schema_input_type=Annotated[int, Field(ge=_NO_BOUND, le=MAX_TOKENS)] | None
    ),
]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class ChatRequest(MessagesBody):
    """The body of `POST /v1/chat/completions`."""

    model: Annotated[str, Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0, le=_MAX_TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1), AfterValidator(lambda p: p or _LIKELIEST)] | None = (
        None
    )
    seed: Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED)] | None = None
    max_tokens: TokenBound = None
    max_completion_tokens: TokenBound = None
    stop: (
        Annotated[
            tuple[StopString, ...],
            Field(max_length=MAX_STOPS, fail_fast=True),
            BeforeValidator(_as_stops, json_schema_input_type=str | tuple[str, ...]),
        ]
        | None
    ) = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    return_token_ids: bool = False
    """As vLLM names it: the answer's token ids come with its last piece."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_there(cls, values: Any) -> Any:
        for name, neutral in _NEUTRAL.items() if isinstance(values, dict) else ():
            value = values.get(name)
            if value is not None and not any(value == accepted for accepted in neutral):
                raise ValueError(f"{name} is not supported here; leave it out")
        return values

    @model_validator(mode="after")
    def _odds_belong_together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    @property
    def odds(self) -> int | None:
        """How many of the likeliest tokens are told; None where no odds are."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def answer_tokens(self) -> int:
        """The bound on the answer, under its new or its old name."""
        return self.max_completion_tokens or self.max_tokens or _DEFAULT_TOKENS


class TokenizeRequest(MessagesBody):
    """The body of `POST /tokenize`: a conversation, or a text as it is. As vLLM has it."""

    model: Annotated[str, Field(min_length=1)]
    messages: Messages = ()
    prompt: Annotated[str, Field(max_length=MAX_PROMPT_CHARS)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.messages) == (self.prompt is not None):
            raise ValueError("expected exactly one of messages and prompt")
        return self


class TokenList(_Wire):
    """What a prompt becomes; -200 stands for each token of a picture."""

    count: int
    max_model_len: int
    tokens: tuple[int, ...]
    token_strs: None = None


class PromptDetails(_Wire):
    """Of the prompt, what was not computed again."""

    cached_tokens: int


class UsageCount(_Wire):
    """Tokens counted; a picture counts as what it takes in the prompt."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class LikelyToken(_Wire):
    """A token and its odds; `token` is its text as far as that is one, `bytes` what it is."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None


class TokenOdds(LikelyToken):
    """The token that was chosen, and what else was likely."""

    top_logprobs: tuple[LikelyToken, ...]


class ChoiceOdds(_Wire):
    """The odds of an answer, token by token."""

    content: tuple[TokenOdds, ...]
    refusal: None = None


FinishReason = Literal["stop", "length"]


class AnswerMessage(_Wire):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(_Wire):
    """The one choice of an answer."""

    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: ChoiceOdds | None = None
    finish_reason: FinishReason
    token_ids: tuple[int, ...] = ()
    """Only where `return_token_ids` asked for them."""


class ChatCompletion(_Wire):
    """An answer in one piece."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: UsageCount
    warnings: tuple[str, ...] = ()
    """Of pictures in which there is nothing to see; only where there are any."""


class ModelCard(_Wire):
    """One entry of `/v1/models`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["llava-pack"] = "llava-pack"


class ModelList(_Wire):
    """The body of `/v1/models`."""

    object: Literal["list"] = "list"
    data: tuple[ModelCard, ...]
