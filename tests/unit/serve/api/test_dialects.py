"""What other dialects ask becomes what a chat asks, field by field."""

import ollama
import pytest
from ollama._types import ChatRequest as TheirChat
from ollama._types import GenerateRequest as TheirGenerate
from pydantic import ValidationError

from llava_pack.serve.api.ollama_wire import (
    HARMLESS_OPTIONS,
    REFUSED_OPTIONS,
    SAMPLER,
    OllamaChat,
    OllamaGenerate,
)
from llava_pack.serve.api.responses_wire import ResponsesRequest
from llava_pack.serve.api.sampler_fields import MAX_TOKENS
from llava_pack.serve.api.translation import chat_request
from llava_pack.serve.api.wire import ChatRequest

_SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
_PASSED_OVER = {"keep_alive", "tools"}
"""Whether a model stays loaded is the server's; tools are read as chat completions have them."""
_PICTURES_THEY_MAKE = {"width", "height", "steps"}
"""Of models that make pictures, which none here does."""


def test_every_option_of_ollama_has_one_verdict() -> None:
    verdicts = [set(SAMPLER), set(REFUSED_OPTIONS), set(HARMLESS_OPTIONS)]
    assert set(ollama.Options.model_fields) <= set().union(*verdicts)
    assert sum(map(len, verdicts)) == len(set().union(*verdicts))
    assert set(SAMPLER.values()) <= set(ChatRequest.model_fields)


def test_every_field_of_ollama_is_read() -> None:
    chat, generate = set(OllamaChat.model_fields), set(OllamaGenerate.model_fields)
    assert set(TheirChat.model_fields) - _PASSED_OVER <= chat
    assert set(TheirGenerate.model_fields) - _PASSED_OVER - _PICTURES_THEY_MAKE <= generate


def test_options_and_form_reach_the_sampler() -> None:
    options = {"temperature": 0.5, "top_k": 7, "min_p": 0.1, "repeat_penalty": 1.2, "num_ctx": 9}
    asked = OllamaGenerate(
        model="m", prompt="hi", system="Be brief.", options=options, format=_SCHEMA
    )
    chat = chat_request(asked.as_chat, {})
    assert [message.role for message in chat.messages] == ["system", "user"]
    assert (chat.temperature, chat.top_k, chat.min_p, chat.repetition_penalty) == (0.5, 7, 0.1, 1.2)
    assert chat.max_tokens == MAX_TOKENS, "until the context is full, as Ollama does"
    assert chat.holds() is not None, "the answer is held to the schema"
    plain = OllamaChat(model="m", messages=[{"role": "user", "content": "hi"}], format="json")
    assert chat_request(plain.as_chat, {}).holds() is not None
    free = OllamaChat(model="m", messages=[{"role": "user", "content": "hi"}], format="")
    assert chat_request(free.as_chat, {}).holds() is None


@pytest.mark.parametrize("options", [{"mirostat": 1}, {"tfs_z": 0.5}, {"typical_p": 0.2}])
def test_an_option_that_is_not_there_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="is not supported here"):
        OllamaGenerate(model="m", options=options)


def test_the_form_of_a_response_reaches_the_sampler() -> None:
    form = {"type": "json_schema", "name": "person", "schema": _SCHEMA, "strict": True}
    asked = ResponsesRequest(model="m", input="hi", text={"format": form})
    assert chat_request(asked.as_chat, {}).holds() is not None
    calls = [
        {"role": "user", "content": "weather?"},
        {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
        {"type": "reasoning", "summary": []},
        {"type": "function_call_output", "call_id": "1", "output": "rain"},
    ]
    chat = chat_request(ResponsesRequest(model="m", input=calls).as_chat, {})
    assert [message.role for message in chat.messages] == ["user", "assistant", "tool"]
