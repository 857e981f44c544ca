"""Wire types of `POST /v1/responses`, and how they become a conversation.

Nothing is kept between two requests: a conversation comes whole with each of them.

Source: OpenAI API reference, "Create a model response".
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llava_pack.serve.api.messages import MAX_MESSAGES
from llava_pack.serve.api.parts import MAX_TEXT_CHARS
from llava_pack.serve.api.request_fields import NEUTRAL, StrictWire, refuse_but
from llava_pack.serve.validation import wrong

_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "logprobs": "include",
}
"""How fields of a chat completion are called here."""
_OF_ITEMS: Mapping[Any, tuple[str, str]] = {
    "function_call": ("tool_calls.0.function", ""),
    "function_call_output": ("content", ".output"),
}
"""How a field of a message is called in an item of a kind."""
_UNREAD = "reasoning"
_NAMED_OTHERWISE = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "logprobs": "include and top_logprobs",
}
_OF_CHATS: Mapping[str, tuple[object, ...]] = {"n": (1,), "return_token_ids": (False,)}
_STATE = ("previous_response_id", "conversation", "background", "prompt")
_CALLABLE = (None, "auto", "none")
_LOGPROBS = "message.output_text.logprobs"
OWN = frozenset(
    {"input", "instructions", "max_output_tokens", "text", "include", "stream_options", "tools",
     "tool_choice", "reasoning", *_STATE}
)  # fmt: skip


class TextSettings(StrictWire):
    """What form the text has."""

    harmless = frozenset[str]()
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {"verbosity": NEUTRAL["verbosity"]}

    format: dict[str, Any] | None = None


class ResponsesRequest(BaseModel):
    """The body of `POST /v1/responses`; sampler fields are those of chat completions."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: Annotated[str, Field(min_length=1)]
    input: (
        Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
        | Annotated[tuple[dict[str, Any], ...], Field(min_length=1, max_length=MAX_MESSAGES)]
    )
    instructions: Annotated[str, Field(max_length=MAX_TEXT_CHARS)] | None = None
    max_output_tokens: int | None = None
    text: TextSettings | None = None
    include: tuple[str, ...] | None = None
    stream: bool | None = None
    top_logprobs: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_here(cls, values: Any) -> Any:
        for name in _STATE if isinstance(values, dict) else ():
            if values.get(name):
                words = "this server keeps no responses; send the whole conversation in input"
                raise wrong(f"is not supported: {words}", name)
        for name, here in _NAMED_OTHERWISE.items() if isinstance(values, dict) else ():
            if values.get(name) not in (None, False):
                raise wrong(f"this route has no such field; it has {here}", name)
        refuse_but(values, _OF_CHATS)
        if isinstance(values, dict) and values.get("tool_choice") not in _CALLABLE:
            raise wrong("is not supported here except auto and none", "tool_choice")
        return values

    @property
    def as_chat(self) -> dict[str, Any]:
        """Return the fields of the same request for a chat completion.

        Raises:
            PydanticCustomError: an item of the input is of a kind that there is not.
        """
        odds = _LOGPROBS in (self.include or ()) or bool(self.top_logprobs)
        return {
            **{name: value for name, value in self if name not in OWN},
            "messages": self._messages(),
            "max_completion_tokens": self.max_output_tokens,
            "response_format": _format(self.text),
            "logprobs": odds or None,
        }

    @property
    def field_names(self) -> dict[str, str]:
        """How the fields of the chat completion that `as_chat` returns are called here."""
        names, first = dict(_NAMES), 0
        if self.instructions:
            names["messages.0.content"], first = "instructions", 1
        if isinstance(self.input, str):
            return {**names, f"messages.{first}.content": "input"}
        for number, (index, item) in enumerate(_read(self.input), first):
            names[f"messages.{number}"] = f"input.{index}"
            if below := _OF_ITEMS.get(item.get("type")):
                names[f"messages.{number}.{below[0]}"] = f"input.{index}{below[1]}"
        return names

    def _messages(self) -> list[Mapping[str, Any]]:
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return [*system, {"role": "user", "content": self.input}]
        return [*system, *(_message(item, index) for index, item in _read(self.input))]


def _read(items: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the items that tell the model something, with their places."""
    return ((i, item) for i, item in enumerate(items) if item.get("type") != _UNREAD)


def _message(item: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    """Return an item of the input as a message."""
    match item.get("type", "message"):
        case "message":
            return {"role": item.get("role"), "content": item.get("content")}
        case "function_call":
            called = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": called}
            return {"role": "assistant", "content": "", "tool_calls": [call]}
        case "function_call_output":
            output = item.get("output")
            return {"role": "tool", "tool_call_id": item.get("call_id"), "content": output}
        case other:
            kinds = "message, function_call or function_call_output"
            raise wrong(f"expected {kinds}, got {str(other)[:80]}", f"input.{index}.type")


def _format(settings: TextSettings | None) -> dict[str, Any] | None:
    """Return the form of the text as chat completions ask for it: a schema has its own object."""
    form = settings.format if settings else None
    if form is None or form.get("type") != "json_schema":
        return form
    schema = {name: value for name, value in form.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}


class OutputText(BaseModel):
    """The text of an answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: tuple[()] = ()
    logprobs: list[dict[str, Any]] = Field(default_factory=list)


class OutputMessage(BaseModel):
    """The one item of an answer."""

    type: Literal["message"] = "message"
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class InputDetails(BaseModel):
    """Of the prompt, what was not computed again."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(BaseModel):
    """Of the answer, what was not shown: nothing."""

    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    """Tokens counted."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ModelResponse(BaseModel):
    """An answer; `store` is false whatever was asked for, since nothing is kept."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, Any] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    model: str
    output: list[OutputMessage] = Field(default_factory=list)
    parallel_tool_calls: bool = True
    previous_response_id: None = None
    store: Literal[False] = False
    temperature: float
    text: dict[str, Any]
    tool_choice: Literal["auto", "none"] = "auto"
    tools: tuple[()] = ()
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    metadata: dict[str, str] = Field(default_factory=dict)
    usage: ResponseUsage | None = None
    warnings: list[str] = Field(default_factory=list)
    """Of pictures in which there is nothing to see."""
