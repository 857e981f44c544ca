"""What an engine of others is sent."""

import base64
import io
import json
import random
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from llava_pack.engine.port import ContextLengthError, EngineInfo, Message, Picture, Request
from llava_pack.engine.sampling import SETTINGS, Grammar, GrammarError, Sampling
from llava_pack.format.errors import UsageError
from llava_pack.profiles import dialects
from llava_pack.serve.engines.http_body import Body
from llava_pack.serve.engines.openai_request import RequestWriter, apart, breaking
from llava_pack.serve.replicas.question import answer_body

INFO = EngineInfo(
    model="m", precision="fp16", device="cuda", context_tokens=4096, slots=8,
    conv_mode="llava_v1", image_tokens=576,
)  # fmt: skip
HI = Message("user", ("hi",))
ALL = {"vllm": dialects.VLLM, "sglang": dialects.SGLANG, "lmdeploy": dialects.LMDEPLOY}
OTHER = Sampling(
    temperature=0.5, top_p=0.5, seed=1, max_tokens=9, stop=("x",), logprobs=2, top_k=3, min_p=0.1,
    repetition_penalty=1.5, frequency_penalty=0.5, presence_penalty=0.5, logit_bias=((1, 2.0),),
    min_tokens=1, ignore_eos=True, stop_token_ids=(4,), grammar=Grammar("regex", "a"),
)  # fmt: skip


def writer(name="vllm", **info):
    return RequestWriter(ALL[name], replace(INFO, **info), "m", ("<s>", "</s>", "<|im_end|>"))


def asked(*messages, name="vllm", conv_mode=None, new_turn=None, salt="", **sampling):
    request = Request(
        request_id="r", messages=messages or (HI,), sampling=Sampling(**sampling),
        conv_mode=conv_mode, new_turn=new_turn, salt=salt,
    )  # fmt: skip
    path, body = writer(name).generation(request)
    return path, json.loads(sent(body))


def sent(body):
    data = b"".join(body.pieces())
    assert len(data) == len(body)
    return data


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("setting", [one for one in SETTINGS if one != "grammar"])
def test_every_setting_is_in_the_body_or_refused_by_name(name, setting):
    value = getattr(OTHER, setting)
    if setting in ALL[name].sampling:
        _, body = asked(name=name, **{setting: value})
        theirs = ALL[name].sampling[setting]
        expected = {"logit_bias": {"1": 2.0}, "logprobs": True}.get(setting, value)
        assert body[theirs] == (list(expected) if isinstance(expected, tuple) else expected)
    else:
        with pytest.raises(UsageError) as refused:
            asked(name=name, **{setting: value})
        assert refused.value.subject == setting


@pytest.mark.parametrize(
    ("grammar", "fields"),
    [
        (
            Grammar("json_schema", '{"type":"object"}'),
            {
                "vllm": {"structured_outputs": {"json": {"type": "object"}}},
                "sglang": {
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "answer", "schema": {"type": "object"}},
                    }
                },
            },
        ),
        (
            Grammar("regex", "a+"),
            {"vllm": {"structured_outputs": {"regex": "a+"}}, "sglang": {"regex": "a+"}},
        ),
        (Grammar("choice", '["a","b"]'), {"vllm": {"structured_outputs": {"choice": ["a", "b"]}}}),
        (
            Grammar("grammar", 'root ::= "a"'),
            {
                "vllm": {"structured_outputs": {"grammar": 'root ::= "a"'}},
                "sglang": {"ebnf": 'root ::= "a"'},
            },
        ),
    ],
    ids=lambda one: getattr(one, "kind", ""),
)
def test_a_grammar_is_in_the_engines_own_field_or_refused(grammar, fields):
    for name in ("vllm", "sglang"):
        if name in fields:
            _, body = asked(name=name, grammar=grammar)
            assert fields[name].items() <= body.items()
        else:
            with pytest.raises(GrammarError):
                asked(name=name, grammar=grammar)


def test_a_prompt_ends_as_is_asked_or_is_refused():
    begun = (HI, Message("assistant", ("It </s>is",)))
    _, body = asked(*begun)
    assert body["continue_final_message"] is True
    assert body["messages"][-1]["content"] == "It <\u200b/s>is"
    _, body = asked(*begun, new_turn=True)
    assert (body["add_generation_prompt"], "continue_final_message" in body) == (True, False)
    _, body = asked(*begun, new_turn=False)
    assert body["add_generation_prompt"] is False
    with pytest.raises(UsageError) as refused:
        asked(*begun, name="sglang", new_turn=False)
    assert refused.value.subject == "new_turn"
    with pytest.raises(UsageError):
        asked(*begun, name="lmdeploy")


def test_an_engine_that_keeps_few_tokens_by_itself_is_told_to_keep_all():
    assert asked(name="lmdeploy")[1]["top_k"] == 0
    assert asked(name="lmdeploy", top_k=3)[1]["top_k"] == 3
    assert "top_k" not in asked()[1]


def test_a_token_in_pieces_is_no_token():
    picture = Picture(1, 1, b"abc")
    _, body = asked(Message("user", ("<im", picture, "", "age> </", "s> a")))
    texts = [part["text"] for part in body["messages"][0]["content"] if part["type"] == "text"]
    assert texts == ["<im", "", "\u200bage> </", "\u200bs> a"]


def test_a_system_message_that_comes_later_is_the_users():
    _, body = asked(Message("system", ("a",)), HI, Message("system", ("b",)))
    assert [
        (one["role"], [part["text"] for part in one["content"]]) for one in body["messages"]
    ] == [
        ("system", ["a"]),
        ("user", ["hi", "b"]),
    ]


@pytest.mark.parametrize(("conv_mode", "roles"), [
    ("llava_v1", ["assistant", "user"]),
    ("llava_llama_2", ["user", "assistant", "user"]),
    ("chat_template", ["user", "assistant", "user"]),
])  # fmt: skip
def test_a_conversation_begins_with_the_user_where_templates_want_that(conv_mode, roles):
    request = Request(request_id="r", messages=(Message("assistant", ("Hello!",)), HI))
    body = json.loads(sent(writer(conv_mode=conv_mode).generation(request)[1]))
    assert [one["role"] for one in body["messages"]] == roles


def test_another_template_is_refused():
    with pytest.raises(UsageError) as refused:
        asked(conv_mode="llava_v0")
    assert refused.value.subject == "conv_mode"
    assert asked(conv_mode="llava_v1")[0] == "/v1/chat/completions"


def test_a_text_as_it_is_keeps_the_tokens_that_may_stand_in_it():
    path, body = asked(Message("user", ("<s>a</s><image><|im_end|>",)), conv_mode="raw", logprobs=2)
    assert path == "/v1/completions"
    assert body["prompt"] == "<s>a</s><\u200bimage><|im_end|>"
    assert body["logprobs"] == 2
    with pytest.raises(UsageError, match="pictures"):
        asked(Message("user", (Picture(1, 1, b"abc"),)), conv_mode="raw")
    with pytest.raises(UsageError, match="conversations only"):
        asked(conv_mode="raw", name="lmdeploy")


def test_an_answer_is_asked_for_within_the_context():
    assert asked(max_tokens=100_000)[1]["max_tokens"] == 4095
    with pytest.raises(ContextLengthError):
        asked(Message("user", ("x" * (4096 * 64 + 1),)))


def test_a_salt_keeps_apart_what_is_reused():
    assert asked(salt="mine")[1]["cache_salt"] == "mine"
    assert "cache_salt" not in asked()[1]


@pytest.mark.parametrize("kind", ["ppm", "png"])
@pytest.mark.parametrize("size", [(1, 1), (5, 4), (10, 7), (123, 9), (700, 601)])
def test_a_picture_is_sent_pixel_for_pixel(kind, size):
    rgb = random.Random(1).randbytes(3 * size[0] * size[1])
    picture = Picture(*size, rgb)
    request = Request(request_id="r", messages=(Message("user", ("a", picture, "b", picture)),))
    if kind == "ppm":
        _, body = RequestWriter(dialects.VLLM, INFO, "m").generation(request)
    else:  # what replicas are sent
        body = Body((answer_body(request, "m")[1],))
    _, one, _, other = json.loads(sent(body))["messages"][0]["content"]
    assert one == other
    file = io.BytesIO(base64.b64decode(one["image_url"]["url"].partition(";base64,")[2]))
    with Image.open(file) as image:
        assert (image.size, image.mode, image.tobytes()) == (size, "RGB", rgb)


_TOKENS = ["<s>", "</s>", "<image>", "<|im_end|>", "[INST]", "aa", "aab", "<<", " ", "x"]


@given(
    st.lists(st.sampled_from([*_TOKENS, "<", "/", "s>", "a", "b", "é"]), max_size=30).map("".join)
)
@example("<<<")
@example("<<s>")
def test_no_text_has_a_token_in_it_and_nothing_is_lost(text):
    broken = breaking(_TOKENS)(text)
    assert not [one for one in _TOKENS if len(one) > 1 and one.strip() and one in broken]
    assert broken.replace("\u200b", "") == text


@given(
    st.lists(
        st.lists(
            st.sampled_from(["<", "im", "s>", "<|im", "_end|>", " ", "a", "age>"]).map(str),
            max_size=4,
        ).map("".join),
        max_size=6,
    )
)
@example(["<", "", "s>"])
@example(["<im ", " age>"])
def test_no_token_comes_of_texts_that_a_template_joins(texts):
    parted = apart(texts, breaking(_TOKENS))
    whole, trimmed = "".join(parted), "".join(one.strip() for one in parted)
    tokens = [one for one in _TOKENS if len(one) > 1 and one.strip()]
    assert not [one for one in tokens if one in whole or one in trimmed]
    assert whole.replace("\u200b", "") == "".join(texts)


def test_a_text_without_tokens_stays_as_it_is():
    assert breaking(_TOKENS)("1 < 2 and [x] > 3") == "1 < 2 and [x] > 3"
    assert breaking([])("<s>") == "<s>"
