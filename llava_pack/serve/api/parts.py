"""The parts of a message, in whatever form a client has for them.

A part is read by its type, or by its fields where it has none. OpenAI's API has names of its own,
its newer API others, and so have Anthropic's, transformers', LangChain's and the Vercel AI SDK's.
What another model thought is passed over.

Source: OpenAI API reference, "Create chat completion" and "Create a model response"; Anthropic API
reference, "Messages"; vllm entrypoints/chat_utils.py (parts without a type); LangChain's content
blocks; Vercel AI SDK, `ImagePart` and `FilePart`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, FailFast, Field
from pydantic.json_schema import SkipJsonSchema

from llava_pack.format.text import visible
from llava_pack.serve.validation import got, wrong

MAX_PARTS = 64
MAX_TEXT_CHARS = 1_000_000


class Wire(BaseModel):
    """What comes over the wire: what is not known is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class TextPart(Wire):
    """A piece of text."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=MAX_TEXT_CHARS)]


class ImageUrl(Wire):
    """A picture as a data: URL, or as base64 alone; `detail` is taken and has no effect."""

    url: str
    place: SkipJsonSchema[str] = "image_url"
    """The field of its part that it came in."""


class ImagePart(Wire):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


class ThinkingPart(Wire):
    """What another model thought: nothing of it is passed on."""

    type: Literal["thinking"]


_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_PICTURES = ("image_url", "input_image", "image", "file", "input_file")
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning")
_IN_PICTURE = ("image_url", "image", "source", "file", "url", "base64", "data", "file_data")
_KINDS = "expected text or image_url"
_SHOWN = 40


def as_part(part: Any) -> Any:
    """Return a part of a known form as `text`, `image_url` or `thinking`.

    Raises:
        PydanticCustomError: it is of no known form.
    """
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        raise wrong(f"expected a text or an object with a type, got {got(part)}")
    kind = part.get("type") or _kind(part)
    if not isinstance(kind, str):
        raise wrong(f"{_KINDS}, got {got(kind)}", "type")
    if kind in _TEXTS:
        name = _TEXTS[kind]
        return {"type": "text", "text": part[name] or ""} if name in part else {"type": "text"}
    if kind in _PICTURES:
        place, url = _picture(part)
        return {"type": "image_url", "image_url": {"url": url, "place": place}}
    if kind in _THOUGHTS:
        return {"type": "thinking"}
    raise wrong(f"{_KINDS}, got {visible(kind[:_SHOWN])!r}", "type")


def as_picture(sent: Any) -> Any:
    """Return a picture that stands alone, as in Ollama's `images`, as one of `image_url`."""
    return {"url": sent} if isinstance(sent, str) else sent


def as_parts(content: Any) -> Any:
    """Return a content as a list of parts; a text is one part, and nothing is none."""
    if content is None:
        return ()
    if isinstance(content, (str, Mapping)):
        return (content,)
    return content


def _kind(part: Mapping[str, Any]) -> str | None:
    if "text" in part:
        return "text"
    return "image" if any(name in part for name in _IN_PICTURE) else None


def _picture(part: Mapping[str, Any], below: str = "") -> tuple[str, str]:
    """Return the field that a picture came in, and its URL or base64, wherever it stands."""
    name = next((name for name in _IN_PICTURE if part.get(name) is not None), None)
    if name is None:
        kept = "files are not kept here; " if "file_id" in part else ""
        raise wrong(f"{kept}expected a picture as image_url, with a data: URL", below)
    value, place = part[name], f"{below}.{name}" if below else name
    if isinstance(value, Mapping) and not below:
        return _picture(value, place)
    if not isinstance(value, str):
        raise wrong(f"expected a data: URL as text, got {got(value)}", place)
    return below or place, value


ContentPart = Annotated[
    Annotated[TextPart | ImagePart | ThinkingPart, Discriminator("type")],
    BeforeValidator(as_part, json_schema_input_type=TextPart | ImagePart),
]
Parts = Annotated[
    tuple[ContentPart, ...],
    FailFast(),
    Field(max_length=MAX_PARTS),
    BeforeValidator(as_parts, json_schema_input_type=str | tuple[ContentPart, ...] | None),
]
