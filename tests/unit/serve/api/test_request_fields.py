"""No field of a client's is passed over in silence: each is honoured, refused, or harmless."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from openai.types import completion_create_params as completions
from openai.types.chat import completion_create_params as chats
from openai.types.responses import response_create_params as responses
from pydantic import ValidationError

from llava_pack.engine.sampling import SETTINGS, Sampling
from llava_pack.serve.api.completions import CompletionRequest
from llava_pack.serve.api.held import HeldFields
from llava_pack.serve.api.request_fields import HARMLESS, NEUTRAL, verdict
from llava_pack.serve.api.responses_wire import OWN, ResponsesRequest
from llava_pack.serve.api.sampler_fields import SamplerFields
from llava_pack.serve.api.wire import ChatRequest
from llava_pack.serve.validation import problem

ROOT = Path(__file__).resolve().parents[4]
OTHERS = tomllib.loads((ROOT / "tests" / "fixtures" / "requests" / "fields.toml").read_text())
CHAT = {
    "openai": set(chats.CompletionCreateParamsBase.__annotations__) | {"stream"},
    **{name: set(server["chat"]) for name, server in OTHERS.items()},
}
ODD = {"odd": "value"}


def _body(**changes: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": "hi"}], **changes}


def _refusal(body: dict[str, Any]) -> tuple[str, str]:
    """Return the field that is named, and the words."""
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate(body)
    first = caught.value.errors(include_url=False)[0]
    return problem({**first, "loc": ("body", *first["loc"])}, body)


@pytest.mark.parametrize("server", CHAT)
def test_every_field_of_a_chat_has_a_verdict(server: str) -> None:
    known = ChatRequest.known() | set(HARMLESS) | set(NEUTRAL)
    assert CHAT[server] <= known, CHAT[server] - known


def test_every_field_of_the_other_dialects_has_a_verdict() -> None:
    known = ChatRequest.known() | set(HARMLESS) | set(NEUTRAL)
    theirs = set(completions.CompletionCreateParamsBase.__annotations__)
    assert theirs <= known | set(CompletionRequest.model_fields)
    own = set(ResponsesRequest.model_fields) | OWN
    assert set(responses.ResponseCreateParamsBase.__annotations__) <= known | own


def test_a_field_has_one_verdict() -> None:
    assert not ChatRequest.known() & (set(HARMLESS) | set(NEUTRAL))
    assert not set(HARMLESS) & set(NEUTRAL)
    assert all(HARMLESS.values())
    verdicts = {name: verdict(ChatRequest, name) for name in ("top_k", "user", "best_of", "new")}
    assert list(verdicts.values()) == ["honoured", "harmless", "refused", "refused"]


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless_may_say_anything(name: str) -> None:
    for value in (None, True, 3, "text", ODD, [ODD]):
        ChatRequest.model_validate(_body(**{name: value}))


@pytest.mark.parametrize("name", NEUTRAL)
def test_what_is_not_done_may_ask_for_nothing(name: str) -> None:
    for value in (None, *NEUTRAL[name]):
        ChatRequest.model_validate(_body(**{name: value}))
    for value in (3, "text", ODD):
        assert _refusal(_body(**{name: value})) == (
            name,
            "it is not supported here; leave it out",
        )


def test_true_is_not_one() -> None:
    ChatRequest.model_validate(_body(best_of=1, length_penalty=1.0, echo=False))
    assert _refusal(_body(best_of=True))[0] == "best_of"
    assert _refusal(_body(echo=0))[0] == "echo"


def test_what_nobody_knows_is_refused_by_name() -> None:
    assert _refusal(_body(top_n=3)) == ("top_n", "this server has no such field; leave it out")
    assert _refusal(_body(**{"x" * 999: 1}))[0] == "x" * 60
    ChatRequest.model_validate(_body(top_n=None))


VALUES: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 7,
    "min_p": 0.25,
    "repetition_penalty": 1.5,
    "repeat_penalty": 1.5,
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "logit_bias": {"5": 2},
    "seed": 5,
    "max_tokens": 9,
    "max_completion_tokens": 9,
    "min_tokens": 3,
    "ignore_eos": True,
    "stop_token_ids": [5],
    "stop": "END",
}


@pytest.mark.parametrize("name", SamplerFields.model_fields)
def test_every_setting_reaches_the_sampler(name: str) -> None:
    body = ChatRequest.model_validate(_body(**{name: VALUES[name]}))
    (changed,) = body.sampling().given
    assert changed in SETTINGS
    assert ChatRequest.model_validate(_body(**{name: None})).sampling() == Sampling()


def test_every_setting_of_the_sampler_can_be_asked_for() -> None:
    asked = {
        name
        for field, value in VALUES.items()
        for name in ChatRequest.model_validate(_body(**{field: value})).sampling().given
    }
    assert asked | {"logprobs", "grammar"} == set(SETTINGS)


def test_zero_and_less_keep_all_tokens() -> None:
    for value in (0, -1):
        assert ChatRequest.model_validate(_body(top_k=value)).sampling() == Sampling()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"-5": 1}}, "logit_bias.-5"),
        ({"logit_bias": {"word": 1}}, "logit_bias.word"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
        ({"n": 9}, "n"),
        ({"cache_salt": ""}, "cache_salt"),
    ],
)
def test_every_setting_has_bounds(changes: dict[str, Any], field: str) -> None:
    assert _refusal(_body(**changes))[0].startswith(field)


def test_the_fields_that_hold_an_answer_are_all_tried_elsewhere() -> None:
    from tests.unit.serve.api.test_held import FORMS

    assert {name for name, *_ in FORMS} == set(HeldFields.model_fields)
