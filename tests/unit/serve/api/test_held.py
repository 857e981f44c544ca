"""Whatever word a client has for it, an answer is held to one grammar."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from llava_pack.engine.sampling import ANY_OBJECT, Grammar, GrammarError
from llava_pack.serve.api.held import StructuredOutputs
from llava_pack.serve.api.schemas import closed
from llava_pack.serve.api.wire import ChatRequest

SCHEMA = {"type": "integer"}
TEXT = json.dumps(SCHEMA)
NUMBER = Grammar("json_schema", TEXT)
BASE_AND_BRANCHES = {
    "type": "object",
    "properties": {"kind": {"type": "string"}},
    "required": ["kind"],
    "anyOf": [
        {"properties": {name: {"type": "string"}}, "required": [name]} for name in ("a", "b")
    ],
}
YES = Grammar("choice", '["yes", "no"]')
WORD = Grammar("regex", "[a-z]+")
LARK = Grammar("grammar", "start: A\nA: /a/")
NAMED = {"name": "number", "strict": True, "schema": SCHEMA}
FORMS: list[tuple[str, Any, Grammar]] = [
    ("response_format", {"type": "json_object"}, ANY_OBJECT),
    ("response_format", {"type": "json_object", "schema": SCHEMA}, NUMBER),
    ("response_format", {"type": "json_schema", "json_schema": NAMED}, NUMBER),
    ("structured_outputs", {"json": SCHEMA}, NUMBER),
    ("structured_outputs", {"json": TEXT, "disable_fallback": True}, NUMBER),
    ("structured_outputs", {"json_object": True}, ANY_OBJECT),
    ("structured_outputs", {"regex": WORD.text}, WORD),
    ("structured_outputs", {"choice": ["yes", "no"]}, YES),
    ("structured_outputs", {"grammar": LARK.text}, LARK),
    ("guided_json", SCHEMA, NUMBER),
    ("guided_json", TEXT, NUMBER),
    ("guided_regex", WORD.text, WORD),
    ("guided_choice", ["yes", "no"], YES),
    ("guided_grammar", LARK.text, LARK),
    ("json_schema", TEXT, NUMBER),
    ("json_schema", SCHEMA, NUMBER),
    ("regex", WORD.text, WORD),
    ("ebnf", LARK.text, LARK),
    ("grammar", LARK.text, LARK),
]


def _request(**changes: Any) -> ChatRequest:
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], **changes}
    return ChatRequest.model_validate(body)


@pytest.mark.parametrize(("name", "value", "grammar"), FORMS)
def test_every_word_is_understood(name: str, value: Any, grammar: Grammar) -> None:
    holds = _request(**{name: value}).holds
    assert holds is not None
    assert holds[0].split(".")[0] == name
    assert holds[1] == grammar


def test_nothing_holds_a_plain_answer() -> None:
    assert _request().holds is None
    assert _request(response_format={"type": "text"}, structured_outputs={}).holds is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"response_format": {"type": "json_object"}, "regex": "a"}, "regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice"),
    ],
)
def test_two_of_them_are_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(GrammarError, match="holds the answer already") as caught:
        _ = _request(**fields).holds
    assert caught.value.subject == named


def test_a_schema_that_is_too_long_names_its_field() -> None:
    schema = {"enum": ["x" * 1000] * 70}
    with pytest.raises(GrammarError, match="expected 1 to 65536") as caught:
        _ = _request(guided_json=schema).holds
    assert caught.value.subject == "guided_json"
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    with pytest.raises(GrammarError, match="expected 1 to 65536") as caught:
        _ = _request(response_format=form).holds
    assert caught.value.subject == "response_format"


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        {"guided_choice": []},
        {"guided_choice": [""]},
        {"guided_choice": ["x"] * 1001},
        {"regex": ""},
        {"regex": "x" * 65_537},
        {"structured_outputs": {"structural_tag": "{}"}},
        {"structured_outputs": {"whitespace_pattern": " *"}},
        {"structured_outputs": {"disable_any_whitespace": True}},
        {"structured_outputs": {"unheard_of": 1}},
    ],
)
def test_what_is_no_grammar_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _request(**fields)


def test_what_vllm_has_beside_is_taken_where_it_asks_for_nothing() -> None:
    neutral = {name: values[0] for name, values in StructuredOutputs.neutral.items() if values}
    assert _request(structured_outputs=neutral).holds is None


def test_objects_have_the_properties_that_are_named() -> None:
    inner = {"properties": {"properties": {"type": "object"}}}
    schema = {"properties": {"a": inner, "b": {"enum": [{"properties": {"x": 1}}]}}}
    assert closed(schema) == {
        "properties": {
            "a": {**inner, "additionalProperties": False},
            "b": {"enum": [{"properties": {"x": 1}}]},
        },
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {}}, "additionalProperties": {"type": "string"}},
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"type": "object"},
        {"properties": {}},
        BASE_AND_BRANCHES,
        {"properties": {"a": {}}, "$ref": "#/$defs/b", "$defs": {"b": {"properties": {"c": {}}}}},
        {"required": ["a"], "oneOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
    ],
)
def test_what_says_otherwise_stays_open(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


def test_what_is_next_to_patterns_stays_open() -> None:
    schema = {"properties": {"a": {}}, "patternProperties": {"^b": {"properties": {"c": {}}}}}
    assert closed(schema)["additionalProperties"] is True
    assert closed(schema)["patternProperties"]["^b"]["additionalProperties"] is False


@pytest.mark.parametrize("name", ["if", "allOf", "anyOf", "$ref"])
def test_a_property_of_the_client_s_is_no_keyword(name: str) -> None:
    schema = {"properties": {name: {"type": "string"}}, "default": {"allOf": 1}}
    assert closed(schema)["additionalProperties"] is False


def test_what_holds_an_answer_is_worked_out_once() -> None:
    request = _request(guided_json=SCHEMA)
    assert request.holds is request.holds
