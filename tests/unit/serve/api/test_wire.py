"""Wire types: what OpenAI's clients send is taken, what would change the answer is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from llava_pack.serve.api.parts import TextPart
from llava_pack.serve.api.wire import ChatRequest


def _body(**changes: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": "hi"}], **changes}


def test_text_is_a_part_of_its_own() -> None:
    request = ChatRequest.model_validate(_body())
    assert request.messages[0].content == (TextPart(type="text", text="hi"),)
    assert request.answer_tokens == 512


def test_the_new_name_of_the_bound_wins() -> None:
    request = ChatRequest.model_validate(_body(max_tokens=5, max_completion_tokens=7))
    assert request.answer_tokens == 7


def test_one_stop_string_is_a_list_of_one() -> None:
    assert ChatRequest.model_validate(_body(stop="END")).stop == ("END",)


def test_bounds_that_say_nothing_are_none() -> None:
    """-1 is LM Studio's and llama.cpp's word for no bound; 0 and an empty stop say nothing."""
    request = ChatRequest.model_validate(_body(max_tokens=-1, top_p=0, stop=""))
    assert (request.answer_tokens, request.stop) == (131_072, ())
    assert request.top_p is not None
    assert 0 < request.top_p < 1e-5
    request = ChatRequest.model_validate(_body(max_tokens=0, stop=["", "END"]))
    assert (request.answer_tokens, request.stop) == (512, ("END",))
    assert ChatRequest.model_validate(_body(stop=None)).stop is None


@pytest.mark.parametrize(
    "extra",
    [
        {"n": 1, "logprobs": False, "tools": [], "tool_choice": "none", "frequency_penalty": 0.0},
        {"response_format": {"type": "text"}, "logit_bias": {}, "presence_penalty": None},
        {"stream": None, "stream_options": {"include_obfuscation": False}},
        {"user": "someone", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
    ],
)
def test_what_changes_nothing_is_taken(extra: dict[str, Any]) -> None:
    ChatRequest.model_validate(_body(**extra))


@pytest.mark.parametrize(
    "extra",
    [
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": float("nan")},
        {"top_p": -0.1},
        {"top_p": 1.1},
        {"max_tokens": -2},
        {"max_tokens": 10**9},
        {"stop": ["x"] * 17},
        {"stop": ["x" * 257]},
        {"seed": 2**63},
        {"messages": []},
        {"messages": [{"role": "user", "content": "x"}] * 257},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "video_url"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 65}]},
        {"model": ""},
        {"stream_options": {"continuous_usage_stats": True}},
    ],
)
def test_every_number_has_bounds(extra: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatRequest.model_validate(_body(**extra))
