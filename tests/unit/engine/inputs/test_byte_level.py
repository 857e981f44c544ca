"""Byte-level tokenizers: transformers' ids, and bytes that come back as they were."""

import json
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.checkpoint.byte_level import byte_characters
from llava_pack.checkpoint.template_choice import choose_template
from llava_pack.checkpoint.templates import OWN
from llava_pack.engine.batching.detokenizer import AnswerText
from llava_pack.engine.inputs.prompt import PromptWriter
from llava_pack.engine.inputs.tokenizers import read_tokenizer
from llava_pack.engine.port import PICTURE_ID, Message, Picture, Request
from llava_pack.format.errors import CheckpointError
from tests.support.byte_level import LLAMA_3_TOKENS, QWEN_TOKENS, write_llama_3, write_qwen

DOT = Picture(1, 1, b"abc")
WRITERS = {"qwen": write_qwen, "llama 3": write_llama_3}
TEXTS = st.text() | st.text("the star is\n  don't 星\U0001f600é123", max_size=40)
CHATS = {
    "text": (Message("user", ("what is this?",)),),
    "picture": (Message("user", (DOT, "what is this?")),),
    "turns": (
        Message("system", ("Be brief.",)),
        Message("user", (DOT, "what?\n")),
        Message("assistant", ("a star.",)),
        Message("user", ("red?",)),
    ),
}


@pytest.fixture(scope="module", params=WRITERS)
def folder(request, tmp_path_factory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp("tokens") / request.param)


@pytest.fixture(scope="module")
def ours(folder):
    return read_tokenizer(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def writer(folder: Path, wanted: str | None = None) -> PromptWriter:
    found = choose_template(folder, name="mine", converted=True, wanted=wanted)
    return PromptWriter(
        tokenizer=read_tokenizer(folder),
        conv_mode=found.conv_mode,
        context_tokens=4096,
        eos_ids=frozenset(),
        picture_tokens=lambda *_: 1,
        chat_template=found.chat_template,
        tokens=found.tokens,
    )


def said(tokenizer, ids) -> bytes:
    return b"".join(tokenizer.token_bytes(token_id) for token_id in ids)


@pytest.mark.engine
@given(text=TEXTS)
def test_the_ids_are_those_of_transformers(ours, theirs, text):
    expected = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert ours.encode(text, continued=False) == ours.encode(text, continued=True) == expected


@pytest.mark.engine
@pytest.mark.parametrize("name", CHATS)
def test_whole_prompts_are_those_of_transformers(folder, theirs, name):
    messages = CHATS[name]
    turns = [
        {"role": one.role, "content": "<image>\n" * len(one.pictures) + one.text}
        for one in messages
    ]
    text = theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    expected = theirs(text, add_special_tokens=False)["input_ids"]
    prompt = writer(folder).write(Request(request_id="r", messages=messages))
    image_id = theirs.convert_tokens_to_ids("<image>")
    assert [image_id if one == PICTURE_ID else one for one in prompt.ids] == expected


@pytest.mark.engine
@pytest.mark.parametrize("begun", ["it is a", "it is ", "\n it is\n", "größe 2024 "])
def test_a_continued_prompt_is_that_of_transformers(folder, theirs, begun):
    messages = (*CHATS["picture"], Message("assistant", (begun,)))
    turns = [
        {"role": one.role, "content": "<image>\n" * len(one.pictures) + one.text}
        for one in messages
    ]
    text = theirs.apply_chat_template(turns, tokenize=False, continue_final_message=True)
    expected = theirs(text, add_special_tokens=False)["input_ids"]
    asked, prompt = (
        writer(folder).write(Request(request_id="r", messages=one))
        for one in (CHATS["picture"], messages)
    )
    # but for the last one, which a tokenizer may join with what follows
    assert prompt.keys()[: len(asked) - 1] == asked.keys()[:-1], "what is kept is used again"
    image_id = theirs.convert_tokens_to_ids("<image>")
    assert [image_id if one == PICTURE_ID else one for one in prompt.ids] == expected


@given(text=TEXTS)
def test_bytes_come_back(ours, text):
    ids = ours.encode(text, continued=False)
    assert said(ours, ids).decode() in {text, normalize("NFC", text)}  # as Qwen writes characters


def test_a_character_cut_into_tokens_comes_whole(ours):
    ids = ours.encode("a\U0001f680b", continued=False)
    assert len(ids) > 3
    text = AnswerText()
    pieces = [text.push(ours.token_bytes(token_id)) for token_id in ids]
    assert "".join([*pieces, text.end()]) == "a\U0001f680b"
    assert not any("\ufffd" in piece or "\u0120" in piece for piece in pieces)


def test_every_byte_has_a_character():
    assert sorted(byte_characters().values()) == list(range(256))


def test_special_tokens_say_nothing_and_other_added_ones_say_themselves(tmp_path):
    tokenizer = read_tokenizer(write_qwen(tmp_path, plain_word="<tool Ġ>"))
    for token in QWEN_TOKENS:
        token_id = tokenizer.special_id(token)
        assert token_id is not None
        assert tokenizer.token_bytes(token_id) == b""
    word = tokenizer.special_id("<tool Ġ>")
    assert word is not None
    assert tokenizer.token_bytes(word) == "<tool Ġ>".encode()


def test_typed_tokens_are_text(ours):
    specials = {ours.special_id(token) for token in (*QWEN_TOKENS, *LLAMA_3_TOKENS)}
    assert not specials & set(
        ours.encode("".join((*QWEN_TOKENS, *LLAMA_3_TOKENS)), continued=False)
    )


def test_what_begins_a_prompt_is_there_where_the_tokenizer_puts_it(tmp_path):
    qwen, llama = write_qwen(tmp_path / "qwen"), write_llama_3(tmp_path / "llama")
    assert read_tokenizer(qwen).bos_id is None
    assert read_tokenizer(llama).bos_id == read_tokenizer(llama).special_id("<|begin_of_text|>")
    settings = json.loads((qwen / "tokenizer_config.json").read_text())
    (qwen / "tokenizer_config.json").write_text(
        json.dumps(settings | {"bos_token": "<|endoftext|>"})
    )
    assert read_tokenizer(qwen).bos_id is None


def test_a_template_of_ours_gives_one_beginning(tmp_path):
    llama = write_llama_3(tmp_path)
    begin = read_tokenizer(llama).bos_id
    for wanted in (None, "llava_llama_3"):
        asked = writer(llama, wanted).write(Request(request_id="r", messages=CHATS["picture"]))
        assert asked.ids[0] == begin
        assert asked.ids.count(begin) == 1
        assert asked.eos_ids == {read_tokenizer(llama).special_id("<|eot_id|>")}


def test_the_spaces_that_a_token_takes_are_gone(tmp_path):
    llama = write_llama_3(tmp_path)
    state = json.loads((llama / "tokenizer.json").read_text())
    for one in state["added_tokens"]:
        one["rstrip"] = one["content"] == "<|end_header_id|>"
    (llama / "tokenizer.json").write_text(json.dumps(state))
    theirs = pytest.importorskip("tokenizers").Tokenizer.from_file(str(llama / "tokenizer.json"))
    prompt = writer(llama).write(Request(request_id="r", messages=CHATS["text"]))
    written = (
        "<|start_header_id|>user<|end_header_id|>\n\nwhat is this?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert list(prompt.ids) == theirs.encode(written).ids


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("tokenizer_config.json", b'{"tokenizer_class": "GPT2Tokenizer"}', "is 'GPT2Tokenizer'"),
        ("tokenizer_config.json", b"{}", "tokenizer_class is None"),
        ("vocab.json", b"[]", "expected a JSON object"),
        ("vocab.json", b'{"a": "b"}', "vocab.json: not a tokenizer"),
        ("merges.txt", b"\xff\xfe", "UTF-8"),
        ("merges.txt", b"only", "not a tokenizer"),
        ("merges.txt", None, "cannot be read"),
    ],
)
def test_files_of_another_kind_or_damaged_are_refused(tmp_path, name, data, reason):
    folder = write_qwen(tmp_path)
    if data is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=reason):
        read_tokenizer(folder)


def test_its_own_template_is_used_by_name(folder):
    assert writer(folder).conv_mode == OWN
