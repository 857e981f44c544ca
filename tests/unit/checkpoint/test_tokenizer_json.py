import json

import pytest
from tokenizers import Tokenizer

from llava_pack.checkpoint.sentencepiece_model import PieceType, parse_sentencepiece
from llava_pack.checkpoint.tokenizer_json import tokenizer_json
from llava_pack.format.errors import CheckpointError
from tests.support import vocabularies
from tests.support.vocabularies import field, tiny_pieces, tiny_tokenizer_model, tokenizer_model

TINY = tiny_tokenizer_model()


def built(model=TINY, config=None, added=None):
    return Tokenizer.from_str(tokenizer_json(model, config or {}, added).decode())


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_the_model_is_read():
    model = parse_sentencepiece(TINY)
    pieces = tiny_pieces()
    assert [piece.text for piece in model.pieces] == [text for text, _, _ in pieces]
    assert [piece.score for piece in model.pieces] == [score for _, score, _ in pieces]
    assert [piece.type for piece in model.pieces] == [kind for _, _, kind in pieces]
    assert model.pieces[3].type is PieceType.BYTE
    assert (model.bos_id, model.eos_id, model.byte_fallback) == (1, 2, True)
    assert (model.add_dummy_prefix, model.remove_extra_whitespaces) == (True, False)


def test_text_goes_through_and_back():
    tokenizer = built()
    text = "what is in this picture?\n  你好 🎉\t"
    encoded = tokenizer.encode(text)
    assert encoded.ids[0] == 1
    assert tokenizer.decode(encoded.ids) == text


def test_each_piece_between_special_tokens_gets_its_own_prefix():
    tokenizer = built()
    space = tokenizer.token_to_id("▁")
    assert ids(tokenizer, "the</s>\n") == [
        *ids(tokenizer, "the"), 2, space, tokenizer.token_to_id("<0x0A>")
    ]  # fmt: skip


def test_the_template():
    end = built(config={"add_eos_token": True})
    assert end.encode("the").ids == [1, *ids(end, "the"), 2]
    assert end.encode("the", "a").type_ids == [0, 0, 0, 1, 1, 1]
    only_end = built(config={"add_bos_token": False, "add_eos_token": True})
    assert only_end.encode("the").ids == [*ids(end, "the"), 2]
    bare = built(config={"add_bos_token": False})
    assert bare.encode("the").ids == ids(end, "the")
    other = built(config={"bos_token": {"content": "</s>"}})
    assert other.encode("the").ids[0] == 2


def test_added_tokens_follow_the_vocabulary():
    tokenizer = built(added={"<im_start>": 321, "<im_patch>": 320})
    assert ids(tokenizer, "<im_start><im_patch>") == [321, 320]
    decoder = {
        "0": {"content": "<unk>", "special": True},
        "320": {"content": "<pad>", "special": True},
        "321": {"content": "and/or", "special": False, "normalized": False},
    }
    tokenizer = built(config={"added_tokens_decoder": decoder})
    assert ids(tokenizer, "<pad>and/or") == [320, 321]
    assert tokenizer.decode([320, 321]) == "and/or"


@pytest.mark.parametrize(
    ("config", "added", "text"),
    [
        ({}, {"<pad>": 330}, "expected 320"),
        ({}, {"<pad>": 5}, "which is '<0x02>'"),
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, None, "has no text"),
        ({"added_tokens_decoder": {"320": "a"}}, None, "has no text"),
    ],
)
def test_added_tokens_without_a_place(config, added, text):
    with pytest.raises(CheckpointError, match=text):
        tokenizer_json(TINY, config, added)


def test_user_defined_pieces_are_never_cut():
    pieces = [*tiny_pieces(), ("<|im_start|>", 0.0, vocabularies.USER_DEFINED)]
    tokenizer = built(tokenizer_model(pieces))
    assert ids(tokenizer, "<|im_start|>") == [320]
    assert tokenizer.decode([320]) == "<|im_start|>"


def test_without_a_dummy_prefix():
    tokenizer = built(tokenizer_model(tiny_pieces(), add_dummy_prefix=False))
    assert tokenizer.encode("the").tokens == ["<s>", "t", "h", "e"]
    assert tokenizer.decode(tokenizer.encode(" the").ids) == " the"


def test_extra_spaces_removed_where_the_model_removes_them():
    tokenizer = built(tokenizer_model(tiny_pieces(), remove_extra_whitespaces=True))
    assert ids(tokenizer, "  the   star ") == ids(tokenizer, "the star")
    assert ids(tokenizer, "   ") == []


def test_pieces_with_spaces_are_kept_apart():
    pieces = [*tiny_pieces(), ("a b", -99.0, vocabularies.NORMAL)]
    pieces += [(" ", -100.0, vocabularies.NORMAL), (" b", -98.0, vocabularies.NORMAL)]
    document = json.loads(tokenizer_json(tokenizer_model(pieces), {}))
    assert ["a", " b"] in document["model"]["merges"]
    built(tokenizer_model(pieces))


def test_the_same_bytes_every_time():
    assert tokenizer_json(TINY, {}) == tokenizer_json(bytes(bytearray(TINY)), {})


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (b"", "it has no pieces"),
        (tokenizer_model(tiny_pieces(), model_type=1), "not a BPE model"),
        (tokenizer_model(tiny_pieces(), charsmap=b"x"), "normalises Unicode"),
        (tokenizer_model(tiny_pieces()[1:]), "no single unknown piece"),
        (tokenizer_model([*tiny_pieces(), ("q", 0.0, vocabularies.UNUSED)]), "unused pieces"),
        (tokenizer_model([*tiny_pieces(), ("the", 0.0, 1), ("the", 0.0, 1)]), "appears twice"),
        (TINY + field(2, field(24, 1)), "spaces as suffixes"),
        (TINY + field(3, field(5, 0)), "does not escape spaces"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"{}", "not a sentencepiece model"),
        (TINY[:-3], "not a sentencepiece model"),
        (TINY[:1000], "not a sentencepiece model"),
        (b"\xff" * 11, "not a sentencepiece model"),
        (field(1, field(3, 9)), "not a sentencepiece model"),
        (field(1, field(3, b"x")), "not a sentencepiece model"),
        (field(1, 7), "not a sentencepiece model"),
        (field(1, field(1, b"\xff")), "not a sentencepiece model"),
        (b"\x0b", "not a sentencepiece model"),
        (bytes((64 << 20) + 1), "at most"),
    ],
)
def test_models_of_another_kind(model, text):
    with pytest.raises(CheckpointError, match=text):
        tokenizer_json(model, {})


def test_unknown_fields_of_every_wire_type_are_passed_over():
    fixed = bytes([99 << 3 & 0x7F | 0x80 | 1, 99 << 3 >> 7]) + bytes(8)
    parse_sentencepiece(TINY + field(90, b"future") + field(91, 5) + fixed)


def test_negative_ids_mean_none():
    model = parse_sentencepiece(TINY + field(2, field(41, -1)))
    assert model.bos_id == -1
    tokenizer = built(TINY + field(2, field(41, -1)))
    assert tokenizer.encode("the").ids == ids(tokenizer, "the")
