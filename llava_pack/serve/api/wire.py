"""Wire types of the OpenAI-compatible API, every number bounded.

Source: OpenAI API reference, "Create chat completion" and "Streaming".
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from llava_pack.engine.limits import MAX_TOP_LOGPROBS
from llava_pack.engine.sampling import Grammar, GrammarError
from llava_pack.serve.api.held import HeldFields
from llava_pack.serve.api.messages import Messages, MessagesBody
from llava_pack.serve.api.parts import MAX_TEXT_CHARS
from llava_pack.serve.api.parts import Wire as _Wire
from llava_pack.serve.api.request_fields import StrictWire
from llava_pack.serve.api.sampler_fields import SamplerFields
from llava_pack.serve.api.tools import ToolFields, call_grammar
from llava_pack.serve.validation import wrong

MAX_NAME_CHARS = 200
MAX_PROMPT_CHARS = 4_000_000
MAX_OBSERVED_TOKENS = 256
MAX_CHOICES = 8
_MAX_SALT_CHARS = 1024


class ObservationRequest(_Wire):
    """A known question: a prompt, and a picture as a data: URL."""

    model: str
    name: Annotated[str, Field(max_length=MAX_NAME_CHARS)]
    prompt: Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
    picture: str | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_OBSERVED_TOKENS)] = 64


class StreamOptions(StrictWire):
    """What a stream ends with; OpenAI's padding against listeners is not added here."""

    harmless = frozenset({"include_obfuscation"})
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {"continuous_usage_stats": (False,)}

    include_usage: bool | None = None


class ChatRequest(MessagesBody, SamplerFields, HeldFields, ToolFields, StrictWire):
    """The body of `POST /v1/chat/completions`."""

    model: Annotated[str, Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    return_token_ids: bool | None = None
    """As vLLM names it: the answer's token ids come with its last piece."""
    cache_salt: Annotated[str, Field(min_length=1, max_length=_MAX_SALT_CHARS)] | None = None
    """As vLLM names it: prefixes are reused with the same one only, within the key's own."""

    @model_validator(mode="after")
    def _odds_belong_together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise wrong("it needs logprobs to be true", "top_logprobs")
        return self

    @cached_property
    def holds(self) -> tuple[str, Grammar] | None:
        """The field that says what the answer is held to, and what that is.

        Raises:
            GrammarError: there are two, or one is too long; its subject is the field.
        """
        field = self.held_to()
        if not self.forced:
            return field
        if field is not None:
            message = f"tool_choice holds the answer to a call already; leave {field[0]} out"
            raise GrammarError(message, subject=field[0])
        return "tools", call_grammar(self.forced)

    @property
    def odds(self) -> int | None:
        """How many of the likeliest tokens are told; None where no odds are."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TokenizeRequest(MessagesBody, StrictWire):
    """The body of `POST /tokenize`: a conversation, or a text as it is. As vLLM has it."""

    harmless = StrictWire.harmless | {"tools"}
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {
        **StrictWire.neutral,
        "return_token_strs": (False,),
    }

    model: Annotated[str, Field(min_length=1)]
    messages: Messages = ()
    prompt: Annotated[str, Field(max_length=MAX_PROMPT_CHARS)] | None = None
    add_special_tokens: bool | None = None
    """Only as it is: the token that begins a text comes once, by the template or before it."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.messages) == (self.prompt is not None):
            raise ValueError("expected exactly one of messages and prompt")
        if self.add_special_tokens not in {None, self.prompt is not None}:
            expected = "false with messages, whose template has them, and true with prompt"
            raise wrong(f"expected {expected}; leave it out", "add_special_tokens")
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


FinishReason = Literal["stop", "length", "tool_calls"]


class AnsweredFunction(_Wire):
    """A function that is called; `arguments` is JSON, unless the answer was cut off."""

    name: str
    arguments: str


class AnsweredCall(_Wire):
    """A call of a tool."""

    id: str
    type: Literal["function"] = "function"
    function: AnsweredFunction


class AnswerMessage(_Wire):
    """The answer: a text, or calls of tools."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: tuple[AnsweredCall, ...] | None = None
    """Only where a call was forced."""


class Choice(_Wire):
    """One choice of an answer."""

    index: int
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
    root: str
    """The model's own name, where `id` is another of its names. As vLLM has it."""
    parent: None = None
    max_model_len: int | None
    """Tokens of prompt and answer together; None until it is loaded. As vLLM has it."""


class ModelList(_Wire):
    """The body of `/v1/models`."""

    object: Literal["list"] = "list"
    data: tuple[ModelCard, ...]
