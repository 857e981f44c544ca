"""Small files that are not what they should be are told as that, on a laptop and by the engine."""

import json

import pytest

from llava_pack.checkpoint.byte_level import is_byte_level
from llava_pack.checkpoint.folder import checkpoint_folder
from llava_pack.checkpoint.layout import survey_files
from llava_pack.checkpoint.picture_words import check_picture_ends
from llava_pack.checkpoint.quantized import quantized_ahead
from llava_pack.checkpoint.special_tokens import read_special_tokens
from llava_pack.checkpoint.token_files import eos_ids
from llava_pack.format.errors import CheckpointError
from tests.support.checkpoints import make_llava


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("added_tokens.json", {"a": None}),
        ("added_tokens.json", {"a": -1}),
        ("tokenizer_config.json", {"added_tokens_decoder": ["a"]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9" * 5000: "a"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": 5}}),
        ("tokenizer_config.json", {"additional_special_tokens": "a"}),
        ("special_tokens_map.json", {"additional_special_tokens": 5}),
        ("tokenizer.json", {"added_tokens": [{}]}),
        ("tokenizer.json", {"added_tokens": 5}),
        ("tokenizer.json", {"model": 5}),
        ("generation_config.json", {"eos_token_id": "x"}),
        ("generation_config.json", {"eos_token_id": [[]]}),
        ("generation_config.json", {"text_config": [1]}),
    ],
)
def test_the_laptop_refuses_what_the_engine_does(tmp_path, name, value):
    folder = make_llava(tmp_path / "llava-v1.5-tiny")
    if name == "tokenizer.json":
        (folder / "tokenizer.model").unlink()
    (folder / name).write_text(json.dumps(value))
    names = [path.name for path in folder.iterdir()]
    weights = survey_files(folder, names, lambda _: ({}, []))[1]
    (found,) = [one for one in weights if one.level == "fail"]
    if value == {"model": 5}:  # the library's own matter
        assert (found.subject, found.message) == (name, "not a tokenizer")
        return
    with pytest.raises(CheckpointError) as caught:
        (eos_ids if name == "generation_config.json" else read_special_tokens)(folder)
    assert (found.subject, found.message) == (caught.value.subject, caught.value.message)
    assert found.subject == name


@pytest.mark.parametrize("added", [None, [{}]])
def test_picture_words_among_no_tokens(tmp_path, added):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    with pytest.raises(CheckpointError):
        check_picture_ends(tmp_path, {"mm_use_im_start_end": True, "vocab_size": 8})


@pytest.mark.parametrize("key", ["type", "storage"])
def test_a_list_is_no_way_to_quantize(key):
    config = {"load_in_4bit": True, f"bnb_4bit_quant_{key}": ["x"]}
    with pytest.raises(CheckpointError, match="expected bitsandbytes"):
        quantized_ahead({"quantization_config": config})


def test_steps_that_are_none(tmp_path):
    assert not is_byte_level({"decoder": {"decoders": 5, "pretokenizers": {"a": 1}}})
    root = tmp_path / "models--a--b"
    (root / "snapshots" / "one").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_bytes(b"\xff")
    assert checkpoint_folder(root).name == "one"
