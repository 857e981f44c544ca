"""Tools that are offered are left to the model; a call that is forced is held, and comes in pieces."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llava_pack.engine.port import Message, Picture
from llava_pack.engine.sampling import GrammarError
from llava_pack.serve.api.tools import CallText, OfferedFunction, asking, call_grammar
from llava_pack.serve.api.translation import engine_messages
from llava_pack.serve.api.wire import ChatRequest
from llava_pack.serve.validation import problem

ADD = {"name": "add", "description": "Adds.", "parameters": {"properties": {"a": {}}}}
TOOL = {"type": "function", "function": ADD}
NAMED = {"type": "function", "function": {"name": "add"}}


def _request(**changes: Any) -> ChatRequest:
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], **changes}
    return ChatRequest.model_validate(body)


@pytest.mark.parametrize("choice", [None, "auto", "none"])
@pytest.mark.parametrize("tools", [None, [], [TOOL], [{"type": "web_search"}], [{"odd": 1}]])
def test_whatever_is_only_offered_is_taken(choice: str | None, tools: Any) -> None:
    request = _request(tools=tools, tool_choice=choice, parallel_tool_calls=True)
    assert (request.forced, request.holds) == ((), None)


def test_one_call_is_forced() -> None:
    both = [TOOL, {"type": "function", "function": {"name": "sub"}}]
    assert [one.name for one in _request(tools=both, tool_choice="required").forced] == [
        "add",
        "sub",
    ]
    assert [one.name for one in _request(tools=both, tool_choice=NAMED).forced] == ["add"]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"tool_choice": "required"}, "tools"),
        ({"tool_choice": "required", "tools": [TOOL, {"type": "web_search"}]}, "tools.1.type"),
        ({"tool_choice": "required", "tools": [{"function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tool_choice": NAMED, "tools": []}, "tool_choice.function.name"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}, "tools": [TOOL]},
            "tool_choice.function.name"),
        ({"tool_choice": "any", "tools": [TOOL]}, "tool_choice"),
        ({"tools": [TOOL] * 129}, "tools"),
    ],
)  # fmt: skip
def test_what_cannot_be_called_is_named(fields: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _request(**fields)
    first = caught.value.errors(include_url=False)[0]
    body = {"messages": [], **fields}
    assert problem({**first, "loc": ("body", *first["loc"])}, body)[0] == place


def test_a_call_and_another_form_are_too_much() -> None:
    with pytest.raises(GrammarError, match="tool_choice holds the answer"):
        _ = _request(tools=[TOOL], tool_choice=NAMED, response_format={"type": "json_object"}).holds


def test_tools_that_are_too_long_are_named() -> None:
    long = {"function": {"name": "add", "parameters": {"enum": ["x" * 70_000]}}}
    request = _request(tools=[long], tool_choice="required")
    assert request.forced is request.forced, "read once"
    with pytest.raises(GrammarError, match="expected 1 to 65536") as caught:
        _ = request.holds
    assert caught.value.subject == "tools"


def test_long_arguments_of_a_call_stay_text() -> None:
    def written(count: int) -> str:
        call = {"function": {"name": "add", "arguments": f"[{'0,' * 10_000}0]"}}
        turn = {"role": "assistant", "tool_calls": [call] * count}
        return engine_messages(_request(messages=[turn, turn]).messages, ())[0].text

    assert '"arguments": [0, 0' in written(1)
    assert '"arguments": "[0,0' in written(10), "reading them would keep others waiting"


def test_the_grammar_names_each_function_with_its_own_schema() -> None:
    grammar = call_grammar([OfferedFunction.model_validate(ADD), OfferedFunction(name="sub")])
    first, call0, args0, call1, args1 = grammar.text.splitlines()
    assert (grammar.kind, first) == ("grammar", "start: call0 | call1")
    assert json.loads(args0.removeprefix("args0: %json "))["additionalProperties"] is False
    assert json.loads(args1.removeprefix("args1: %json "))["type"] == "object"
    assert call0.startswith('call0: "{\\"name\\": \\"add\\"')
    assert call1.startswith('call1: "{\\"name\\": \\"sub\\"')


def test_the_last_question_asks_for_the_call() -> None:
    dot = Picture(1, 1, b"abc")
    talk = (Message("user", (dot, "one")), Message("assistant", ("two",)))
    first, second = asking(talk, [OfferedFunction.model_validate(ADD)])
    assert (first.pictures, second) == ((dot,), talk[1])
    assert '"Adds."' in first.text
    assert "this function" in first.text
    (only,) = asking((), [OfferedFunction(name="a"), OfferedFunction(name="b")])
    assert "one of these functions" in only.text


@given(cuts=st.lists(st.integers(1, 9), max_size=20), whole=st.booleans())
def test_a_call_comes_in_whatever_pieces(cuts: list[int], *, whole: bool) -> None:
    arguments = '{"a": {"b": "}}"}, "c": [{}]}'
    text = f'{{"name": "add", "arguments": {arguments}}}'
    if not whole:
        text = text[:-4]
    call, pieces, at = CallText(), [], 0
    for cut in [*cuts, len(text)]:
        pieces.append(call.push(text[at : at + cut]))
        at += cut
    assert call.name == "add"
    expected = arguments if whole else arguments[:-3]
    assert "".join(pieces) in {expected, expected.removesuffix("}")}
    if whole:
        assert "".join(pieces) == expected
