"""Messages as clients send them, every number bounded.

Source: OpenAI API reference, "Create chat completion".
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, FailFast, Field

from llava_pack.engine.limits import Limits

MAX_MESSAGES = 256
MAX_PARTS = 64
MAX_PICTURES = Limits().count
MAX_TEXT_CHARS = 1_000_000


class Wire(BaseModel):
    """What comes over the wire: what is not known is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class TextPart(Wire):
    """A piece of text."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=MAX_TEXT_CHARS)]


class ImageUrl(Wire):
    """A picture as a data: URL; `detail` is taken and has no effect."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Wire):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


ContentPart = Annotated[TextPart | ImagePart, Discriminator("type")]


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Parts = Annotated[
    tuple[ContentPart, ...],
    FailFast(),
    Field(max_length=MAX_PARTS),
    BeforeValidator(_as_parts, json_schema_input_type=str | tuple[ContentPart, ...]),
]


class ChatMessage(Wire):
    """One turn; `developer` is what OpenAI calls `system` now."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Parts


# One wrong message is told; an error is kept for none of the others.
Messages = Annotated[
    tuple[ChatMessage, ...], FailFast(), Field(min_length=1, max_length=MAX_MESSAGES)
]
