"""What other dialects ask becomes what a chat asks, field by field."""

from typing import Any

import ollama
import pytest
from ollama._types import ChatRequest as TheirChat
from ollama._types import GenerateRequest as TheirGenerate
from pydantic import BaseModel, ValidationError

from llava_pack.serve.api.completions import CompletionRequest
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
from llava_pack.serve.api.wire import ChatRequest, TokenizeRequest
from llava_pack.serve.validation import problem

_SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def test_every_option_of_ollama_has_one_verdict() -> None:
    verdicts = [set(SAMPLER), set(REFUSED_OPTIONS), set(HARMLESS_OPTIONS)]
    assert set(ollama.Options.model_fields) <= set().union(*verdicts)
    assert sum(map(len, verdicts)) == len(set().union(*verdicts))
    assert set(SAMPLER.values()) <= set(ChatRequest.model_fields)


def test_every_field_of_ollama_is_read() -> None:
    for theirs, ours in ((TheirChat, OllamaChat), (TheirGenerate, OllamaGenerate)):
        verdicts = ours.known() | ours.harmless | set(ours.neutral)
        assert set(theirs.model_fields) <= verdicts


def test_options_and_form_reach_the_sampler() -> None:
    options = {"temperature": 0.5, "top_k": 7, "min_p": 0.1, "repeat_penalty": 1.2, "num_ctx": 9}
    asked = OllamaGenerate(
        model="m", prompt="hi", system="Be brief.", options=options, format=_SCHEMA
    )
    chat = chat_request(asked.as_chat)
    assert [message.role for message in chat.messages] == ["system", "user"]
    assert (chat.temperature, chat.top_k, chat.min_p, chat.repetition_penalty) == (0.5, 7, 0.1, 1.2)
    assert chat.max_tokens == MAX_TOKENS, "until the context is full, as Ollama does"
    assert chat.holds is not None, "the answer is held to the schema"
    plain = OllamaChat(model="m", messages=[{"role": "user", "content": "hi"}], format="json")
    assert chat_request(plain.as_chat).holds is not None
    free = OllamaChat(model="m", messages=[{"role": "user", "content": "hi"}], format="")
    assert chat_request(free.as_chat).holds is None


def test_a_repetition_is_looked_for_in_all_of_the_context() -> None:
    for options in ({"repeat_last_n": 64}, {"repeat_penalty": 1.1, "repeat_last_n": -1}):
        OllamaGenerate(model="m", options=options)
    with pytest.raises(ValidationError, match="in all of the context"):
        OllamaGenerate(model="m", options={"repeat_penalty": 1.1, "repeat_last_n": 64})


@pytest.mark.parametrize(
    "options", [{"mirostat": 1}, {"tfs_z": 0.5}, {"typical_p": 0.2}, {"penalize_newline": False}]
)
def test_an_option_that_is_not_there_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="is not supported here"):
        OllamaGenerate(model="m", options=options)


def test_the_form_of_a_response_reaches_the_sampler() -> None:
    form = {"type": "json_schema", "name": "person", "schema": _SCHEMA, "strict": True}
    asked = ResponsesRequest(model="m", input="hi", text={"format": form})
    assert chat_request(asked.as_chat).holds is not None
    calls = [
        {"role": "user", "content": "weather?"},
        {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
        {"type": "reasoning", "summary": []},
        {"type": "function_call_output", "call_id": "1", "output": "rain"},
    ]
    chat = chat_request(ResponsesRequest(model="m", input=calls).as_chat)
    assert [message.role for message in chat.messages] == ["user", "assistant", "tool"]


MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}
BODIES: dict[type[BaseModel], dict[str, Any]] = {
    CompletionRequest: {"prompt": "hi"},
    ResponsesRequest: {"input": "hi"},
    OllamaChat: MESSAGES,
    OllamaGenerate: {"prompt": "hi"},
    TokenizeRequest: MESSAGES,
}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        *((CompletionRequest, *one) for one in {
            "messages": [], "top_logprobs": 2, "add_generation_prompt": True,
            "continue_final_message": True, "tools": [{"type": "function"}],
            "tool_choice": "required", "return_token_ids": True,
        }.items()),
        *((ResponsesRequest, *one) for one in {
            "messages": [], "response_format": {"type": "json_object"}, "max_tokens": 3,
            "max_completion_tokens": 3, "logprobs": True, "n": 2, "text": {"verbosity": "low"},
            "return_token_ids": True,
        }.items()),
        *((kind, *one) for kind in (OllamaChat, OllamaGenerate) for one in {
            "response_format": {"type": "json_object"}, "logit_bias": {"1": 2}, "n": 2, "odd": 1,
        }.items()),
        (OllamaGenerate, "tools", [{"type": "function"}]),
        (TokenizeRequest, "add_special_tokens", True),
        (TokenizeRequest, "return_token_strs", True),
        (TokenizeRequest, "odd", 1),
    ],
)  # fmt: skip
def test_what_a_dialect_has_no_use_for_is_refused_by_name(
    kind: type[BaseModel], field: str, value: Any
) -> None:
    body = {"model": "m", **BODIES[kind]}
    kind.model_validate({**body, field: None, "stream": None})
    body[field] = value
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    first = caught.value.errors(include_url=False)[0]
    assert problem({**first, "loc": ("body", *first["loc"])}, body)[0].split(".")[0] == field


def test_the_special_tokens_of_a_text_are_as_they_are() -> None:
    TokenizeRequest(model="m", prompt="hi", add_special_tokens=True)
    TokenizeRequest(model="m", **MESSAGES, add_special_tokens=False, tools=[{}])
    with pytest.raises(ValidationError, match="true with prompt"):
        TokenizeRequest(model="m", prompt="hi", add_special_tokens=False)


@pytest.mark.parametrize("count", [None, 0])
def test_a_completion_without_a_bound_has_the_route_s_own(count: int | None) -> None:
    asked = CompletionRequest(model="m", prompt="hi", max_tokens=count)
    assert chat_request(asked.as_chat).answer_tokens == 16


def test_a_stream_that_is_null_is_as_if_it_was_absent() -> None:
    assert OllamaGenerate(model="m", stream=None).streams
    assert not OllamaGenerate(model="m", stream=False).streams
