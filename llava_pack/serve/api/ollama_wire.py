"""Wire types of Ollama's `/api/chat` and `/api/generate`, and how they become a conversation.

Source: ollama docs/api.md; ollama api/types.go, Options and Runner.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llava_pack.serve.api.messages import MAX_MESSAGES, MAX_PICTURES
from llava_pack.serve.api.request_fields import StrictWire
from llava_pack.serve.api.sampler_fields import MAX_TOKENS
from llava_pack.serve.validation import wrong

SAMPLER = {
    **{name: name for name in (
        "temperature", "top_p", "top_k", "min_p", "seed", "stop", "frequency_penalty",
        "presence_penalty",
    )},
    "repeat_penalty": "repetition_penalty",
    "num_predict": "max_tokens",
}  # fmt: skip
"""Ollama's options that change an answer, and how chat completions call them."""
REFUSED_OPTIONS: dict[str, tuple[object, ...]] = {
    "mirostat": (0,),
    "penalize_newline": (True,),
    "tfs_z": (1,),
    "typical_p": (1,),
}
"""Options that would change an answer and are not there, with the values that change nothing."""
HARMLESS_OPTIONS = frozenset(
    {"numa", "num_ctx", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all",
     "vocab_only", "use_mmap", "use_mlock", "embedding_only", "num_thread", "num_keep",
     "repeat_last_n", "mirostat_tau", "mirostat_eta"}
)  # fmt: skip
"""How a model is loaded, which the server decides, and what goes with options that are refused.
What Ollama does not know either is passed over, as there."""
_NAMES = {theirs: f"options.{ours}" for ours, theirs in SAMPLER.items()} | {
    "response_format": "format",
    "response_format.json_schema.schema": "format",
}
"""How fields of a chat completion are called here."""
LATEST = ":latest"


class _Asked(StrictWire):
    harmless = StrictWire.harmless | {"keep_alive", "shift", "truncate"}
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "_debug_render_only": (False,),
        "height": (0,),
        "steps": (0,),
        "tools": ([],),
        "width": (0,),
    }
    """Sizes are those of models that make pictures."""

    model: Annotated[str, Field(min_length=1)]
    stream: bool | None = None
    """Null too is a stream, as there."""
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    @model_validator(mode="after")
    def _only_what_can_be(self) -> "_Asked":
        if self.think:
            raise wrong(f"{self.model[:200]!r} does not support thinking", "think")
        if isinstance(self.format, str) and self.format not in {"", "json"}:
            raise wrong(f"expected json or a JSON schema, got {self.format[:80]}", "format")
        options = self.options or {}
        for name, neutral in REFUSED_OPTIONS.items():
            value = options.get(name)
            if value is not None and value not in neutral:
                raise wrong("is not supported here; leave it out", f"options.{name}")
        punished = options.get("repeat_penalty") not in (None, 1)
        if punished and options.get("repeat_last_n") not in (None, -1):
            words = "expected -1: a repetition is looked for in all of the context"
            raise wrong(words, "options.repeat_last_n")
        return self

    @property
    def field_names(self) -> dict[str, str]:
        """How the fields of the chat completion that `as_chat` returns are called here."""
        return _NAMES

    @property
    def streams(self) -> bool:
        """Whether the answer comes in pieces."""
        return self.stream is not False

    @property
    def of_the_sampler(self) -> dict[str, Any]:
        """Return the fields of a chat completion, but for the conversation."""
        options = self.options or {}
        fields = {theirs: options.get(name) for name, theirs in SAMPLER.items()}
        count = fields["max_tokens"]
        if count is None or (isinstance(count, int) and count < 0):  # until the context is full
            fields["max_tokens"] = MAX_TOKENS
        return {
            **fields,
            "stream": self.streams,
            "response_format": _form(self.format),
            "logprobs": self.logprobs or None,
            "top_logprobs": self.top_logprobs or None,
        }


_Images = Annotated[tuple[str, ...], Field(max_length=MAX_PICTURES)] | None


class OllamaMessage(BaseModel):
    """A turn, with its pictures beside its text."""

    model_config = ConfigDict(extra="allow", frozen=True)

    role: str
    content: str | None = None
    images: _Images = None

    @property
    def as_chat(self) -> dict[str, Any]:
        """Return it as chat completions have it."""
        beside = {name: value for name, value in (self.model_extra or {}).items() if value}
        return {**beside, "role": self.role, "content": self.content, "images": self.images}


class OllamaChat(_Asked):
    """The body of `POST /api/chat`."""

    tools: tuple[dict[str, Any], ...] | None = None
    messages: Annotated[tuple[OllamaMessage, ...], Field(max_length=MAX_MESSAGES)] = ()

    @property
    def as_chat(self) -> dict[str, Any]:
        """Return the same request as chat completions have it."""
        messages = [message.as_chat for message in self.messages]
        return {
            "model": self.model,
            **self.of_the_sampler,
            "messages": messages,
            "tools": self.tools or None,
        }


class OllamaGenerate(_Asked):
    """The body of `POST /api/generate`."""

    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: tuple[int, ...] | None = None
    images: _Images = None
    raw: bool | None = None

    @property
    def field_names(self) -> dict[str, str]:
        """How the fields of the chat completion that `as_chat` returns are called here."""
        system = {"messages.0.content": "system"} if self.system else {}
        last = f"messages.{len(system)}"
        turn = {f"{last}.images": "images", f"{last}.content": "prompt", "messages": "prompt"}
        return {**_NAMES, **system, **turn}

    @model_validator(mode="after")
    def _only_what_is_there(self) -> "OllamaGenerate":
        for name in ("suffix", "template", "context"):
            if getattr(self, name):
                raise wrong("is not supported here; leave it out", name)
        if self.raw and (self.images or self.system):
            raise wrong("goes with neither images nor system; leave it out", "raw")
        return self

    @property
    def as_chat(self) -> dict[str, Any]:
        """Return the same request as chat completions have it."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        turn = {"role": "user", "content": self.prompt, "images": self.images}
        return {"model": self.model, **self.of_the_sampler, "messages": [*system, turn]}


def _form(form: str | Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not form:
        return None
    if isinstance(form, str):
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "format", "schema": form}}
