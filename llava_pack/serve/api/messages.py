"""Messages as clients send them, every number bounded.

Source: OpenAI API reference, "Create chat completion"; Ollama docs/api.md (`images`);
vllm entrypoints/openai/protocol.py (`add_generation_prompt`, `continue_final_message`).
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, FailFast, Field, model_validator

from llava_pack.engine.limits import Limits
from llava_pack.serve.api.parts import (
    MAX_PARTS,
    MAX_TEXT_CHARS,
    ImagePart,
    ImageUrl,
    Parts,
    TextPart,
    Wire,
    as_picture,
)
from llava_pack.serve.api.tool_texts import call_text, result_parts
from llava_pack.serve.validation import wrong

MAX_MESSAGES = 256
MAX_PICTURES = Limits().count
_MAX_READ_CHARS = 256 << 10
"""Of the arguments of all calls of a conversation."""
_CONTINUE = "continue_final_message"
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
_Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]


class CalledFunction(Wire):
    """Which tool the assistant called, and with what."""

    name: _Text
    arguments: _Text | dict[str, Any] | None = None


class ToolCall(Wire):
    """A call of the assistant's, of a conversation that went on elsewhere."""

    function: CalledFunction


class ChatMessage(Wire):
    """One turn; `developer` is what OpenAI calls `system` now, `function` what `tool` was."""

    role: Role
    content: Parts = ()
    images: Annotated[
        tuple[Annotated[ImageUrl, BeforeValidator(as_picture)], ...] | None,
        Field(max_length=MAX_PARTS),
    ] = None
    refusal: _Text | None = None
    tool_calls: Annotated[tuple[ToolCall, ...] | None, Field(max_length=MAX_PARTS)] = None
    function_call: CalledFunction | None = None

    @property
    def pictures(self) -> Iterator[tuple[str, str]]:
        """Yield the field below this message and the URL of each picture, in order."""
        for index, image in enumerate(self.images or ()):
            yield f"images.{index}", image.url
        for index, part in enumerate(self.content):
            if isinstance(part, ImagePart):
                yield f"content.{index}.{part.image_url.place}", part.image_url.url

    @property
    def called(self) -> tuple[CalledFunction, ...]:
        """The tools that it calls, under the newer and the older name."""
        calls = [call.function for call in self.tool_calls or ()]
        return (*calls, self.function_call) if self.function_call else tuple(calls)

    def parts(self, *, read: bool) -> tuple[str | ImageUrl, ...]:
        """Return the texts and pictures of this message in order, with what else it says as text.

        Args:
            read: whether the JSON of its calls is, see `reads_calls`.
        """
        parts: list[str | ImageUrl] = [*(self.images or ())]
        for part in self.content:
            if isinstance(part, TextPart):
                parts.append(part.text)
            elif isinstance(part, ImagePart):
                parts.append(part.image_url)
        parts += [self.refusal] if self.refusal else []
        parts += [call_text(one.name, one.arguments, read=read) for one in self.called]
        return result_parts(parts) if self.role in {"tool", "function"} else tuple(parts)


def reads_calls(messages: Sequence[ChatMessage]) -> bool:
    """Return whether the JSON of a conversation's calls is read; if it is long, others would wait.

    It stays the text that it is then, which no model's context has room for anyway.
    """
    arguments = (one.arguments for message in messages for one in message.called)
    return sum(len(one) for one in arguments if isinstance(one, str)) <= _MAX_READ_CHARS


# One wrong message is told; an error is kept for none of the others.
Messages = Annotated[
    tuple[ChatMessage, ...], FailFast(), Field(min_length=1, max_length=MAX_MESSAGES)
]


class MessagesBody(Wire):
    """Messages, and whether the answer is a turn of its own or the rest of the last one."""

    messages: Messages
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @model_validator(mode="after")
    def _one_ending(self) -> Self:
        if not self.continue_final_message:
            return self
        if self.add_generation_prompt:
            raise wrong("it contradicts add_generation_prompt; set one of them to true", _CONTINUE)
        if not self.messages or self.messages[-1].role != "assistant":
            raise wrong("it needs a last message of role assistant", _CONTINUE)
        return self

    @property
    def new_turn(self) -> bool | None:
        """Whether the assistant's next turn begins; None: unless its last one is last of all."""
        if self.continue_final_message:
            return None
        if self.continue_final_message is None:
            return self.add_generation_prompt
        return self.add_generation_prompt is not False
