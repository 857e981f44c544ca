"""Both readers give one vocabulary's ids, and bytes come back from them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.checkpoint.token_files import eos_ids
from llava_pack.checkpoint.tokenizer_json import tokenizer_json
from llava_pack.engine.inputs.prompt import PromptWriter
from llava_pack.engine.inputs.tokenizers import read_tokenizer
from llava_pack.engine.port import PICTURE_ID, Message, Picture, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import CheckpointError, UsageError
from tests.support.checkpoints import TOKENIZER_CONFIG
from tests.support.vocabularies import tiny_tokenizer_model

MODEL = tiny_tokenizer_model(320)
TEXTS = [
    "what is in the picture?",
    "\nthe star",
    "  two spaces  ",
    "größe 星 \U0001f600",
    "</s> <s> <unk> <image> <0x41>",
    "",
    " ",
    "USER: what ASSISTANT:",
]


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "not legacy"])
def pair(request, tmp_path_factory):
    """Return the same vocabulary read by sentencepiece and by tokenizers."""
    folder = tmp_path_factory.mktemp("tokens")
    config = TOKENIZER_CONFIG | {"legacy": request.param}
    for name, data in (
        ("tokenizer.model", MODEL),
        ("tokenizer.json", tokenizer_json(MODEL, config)),
    ):
        (folder / name.split(".")[1]).mkdir()
        (folder / name.split(".")[1] / name).write_bytes(data)
        (folder / name.split(".")[1] / "tokenizer_config.json").write_text(json.dumps(config))
    return read_tokenizer(folder / "model"), read_tokenizer(folder / "json")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("continued", [True, False])
def test_both_give_the_same_ids(pair, text, continued):
    ids = [one.encode(text, continued=continued) for one in pair]
    assert ids[0] == ids[1]


@given(text=st.text("thespicur a\n.é星", max_size=30))
def test_bytes_come_back(pair, text):
    for one in pair:
        ids = one.encode(text, continued=False)
        said = b"".join(one.token_bytes(token_id) for token_id in ids)
        assert said == (f" {text}" if text else "").encode()


def test_a_text_that_begins_with_an_added_word_keeps_its_space_unless_legacy(tmp_path):
    """Source: transformers 4.37, whose slow tokenizer gave the recorded ids of LLaVA-1.6 34B."""
    (tmp_path / "tokenizer.model").write_bytes(MODEL)
    for legacy, lead in ((True, 0), (False, 1)):
        config = TOKENIZER_CONFIG | {"legacy": legacy}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        found = read_tokenizer(tmp_path, words=("<im_start>", "<im_end>"))
        assert [found.special_id(word) for word in ("<im_start>", "<im_end>")] == [320, 321]
        assert (len(found.lead("<im_start>")), found.lead("</s>")) == (lead, [])
        assert read_tokenizer(tmp_path, words=("<im_start>",), fast=True).lead("<im_start>") == []


def test_special_tokens_are_known_and_say_nothing(pair):
    for one in pair:
        assert (one.bos_id, one.special_id("<s>"), one.special_id("</s>")) == (1, 1, 2)
        assert one.special_id("<|im_end|>") is None
        assert one.token_bytes(1) == one.token_bytes(2) == b""
        assert one.token_bytes(10**6) == b""
        assert one.size == 320


def test_typed_special_tokens_are_text(pair):
    for one in pair:
        assert not {1, 2} & set(one.encode("</s><s>", continued=False))


def test_added_tokens_are_found(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(MODEL)
    (tmp_path / "added_tokens.json").write_text('{"<im_patch>": 320}')
    decoder = {"321": {"content": "<|im_end|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    tokenizer = read_tokenizer(tmp_path)
    assert (tokenizer.special_id("<im_patch>"), tokenizer.special_id("<|im_end|>")) == (320, 321)
    assert tokenizer.size == 322
    assert tokenizer.token_bytes(320) == b""


def test_the_ends_are_read_from_both_configs(tmp_path):
    (tmp_path / "config.json").write_text('{"eos_token_id": 2}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert eos_ids(tmp_path) == {2, 7}


@pytest.mark.parametrize(
    ("name", "data"),
    [("tokenizer.model", b"junk"), ("tokenizer.json", b"{}"), ("tokenizer.json", b"[")],
)
def test_broken_tokenizers_are_refused(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError):
        read_tokenizer(tmp_path)


def test_none_is_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"expected tokenizer\.model, tokenizer\.json or vocab\.json"
    ):
        read_tokenizer(tmp_path)


def writer(tokenizer, context_tokens=512, tokens=4):
    return PromptWriter(
        tokenizer=tokenizer,
        conv_mode="llava_v1",
        context_tokens=context_tokens,
        eos_ids=frozenset({2}),
        picture_tokens=None if tokens is None else lambda *_: tokens,
    )


DOT = Picture(1, 1, b"abc")
HI = Message("user", ("hi",))
BEGUN = Message("assistant", ("what is",))


def test_pictures_stand_between_pieces_tokenized_by_themselves(pair):
    asked = Request(request_id="r", messages=(Message("user", (DOT, "what is it?")),))
    prompt = writer(pair[0]).write(asked)
    at = prompt.ids.index(PICTURE_ID)
    before, after = prompt.ids[:at], prompt.ids[at + 4 :]
    assert prompt.ids[at : at + 4] == (PICTURE_ID,) * 4
    assert before[0] == 1
    assert 1 not in before[1:] + after
    assert list(after) == pair[0].encode("\nwhat is it? ASSISTANT:", continued=False)
    assert prompt.pictures == (DOT,)


def test_stops_are_ids_where_the_vocabulary_has_them(pair):
    asked = Request(
        request_id="r", messages=(Message("user", ("x",)),), sampling=Sampling(stop=("STOP",))
    )
    prompt = writer(pair[0]).write(asked)
    assert (prompt.stops, prompt.eos_ids) == (("STOP",), {2})


def test_a_prompt_as_long_as_the_context_is_refused(pair):
    asked = Request(request_id="r", messages=(Message("user", ("what " * 50,)),))
    length = len(writer(pair[0]).write(asked))
    assert len(writer(pair[0], context_tokens=length + 1).write(asked)) == length
    with pytest.raises(UsageError, match=f"{length} tokens, the model's limit is {length}"):
        writer(pair[0], context_tokens=length).write(asked)


def test_endless_text_is_refused_before_it_is_tokenized():
    asked = Request(request_id="r", messages=(Message("user", ("x" * 10**6,)),))
    with pytest.raises(UsageError, match="characters"):
        writer(None).write(asked)


def test_a_model_without_a_tower_refuses_pictures(pair):
    asked = Request(request_id="r", messages=(Message("user", (DOT, "x")),))
    with pytest.raises(UsageError, match="does not accept pictures"):
        writer(pair[0], tokens=None).write(asked)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tokenizer.json", b"[" * 1_000_000),
        ("tokenizer.json", b"[]"),
        ("tokenizer.model", b"\xff" * 100),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "added_tokens.json"])
def test_a_tokenizer_of_gigabytes_is_not_read(tmp_path, name):
    (tmp_path / "tokenizer.model").write_bytes(tiny_tokenizer_model())
    if name == "tokenizer.json":
        (tmp_path / "tokenizer.model").unlink()
    with (tmp_path / name).open("ab") as file:
        file.truncate(8 << 30)
    with pytest.raises(CheckpointError, match="has 8589934592 bytes, expected at most"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("tokenizer", "map_file", "want"),
    [
        ({"bos_token": {"__type": "AddedToken", "content": "<s>"}}, {}, 1),
        ({"bos_token": {"__type": "AddedToken", "content": "</s>"}}, {}, 2),
        ({"bos_token": ""}, {}, 0),
        ({"bos_token": "<s>"}, {"bos_token": {"content": "</s>"}}, 2),
        ({"bos_token": "<s>", "added_tokens_decoder": {"2": "</s>"}}, {"bos_token": "</s>"}, 1),
        ({"bos_token": None}, {}, 1),
        ({}, {}, 1),
        ({"bos_token": "<s>", "add_bos_token": False}, {}, None),
    ],
)
def test_what_begins_a_prompt_in_the_files_of_2023(tmp_path, tokenizer, map_file, want):
    """As the slow tokenizer of transformers 4.37 reads them, which LLaVA's own code takes."""
    (tmp_path / "tokenizer.model").write_bytes(MODEL)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(map_file))
    assert read_tokenizer(tmp_path).bos_id == want


@pytest.mark.parametrize(
    ("messages", "given", "opened"),
    [
        ((HI,), {}, True),
        ((HI, BEGUN), {}, False),
        ((HI, BEGUN), {"new_turn": True}, True),
        ((HI,), {"new_turn": False}, False),
        ((HI,), {"conv_mode": "raw"}, True),  # LLaVA's own clients send the turn's beginning
        ((HI,), {"conv_mode": "raw", "new_turn": False}, False),
    ],
)
def test_a_prompt_says_whether_its_answer_begins_a_turn(pair, messages, given, opened):
    prompt = writer(pair[0]).write(Request(request_id="r", messages=messages, **given))
    assert prompt.opened is opened
