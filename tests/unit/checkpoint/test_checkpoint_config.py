import json

import pytest

from llava_pack.checkpoint.config import (
    parse_config,
    provenance_rewrites,
    remote_ids,
    rewrite_pointer,
    vision_tower_id,
    vision_tower_pointer,
)
from llava_pack.format.errors import CheckpointError
from tests.support.checkpoints import TinyLlava, llava_config

CLIP = "openai/clip-vit-large-patch14-336"


def as_json(value):
    return json.dumps(value, indent=2).encode() + b"\n"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"mm_vision_tower": CLIP}, CLIP),
        ({"vision_tower": "a/b"}, "a/b"),
        ({"mm_vision_tower": CLIP, "vision_tower": "a/b"}, CLIP),
        ({"mm_vision_tower": None, "vision_tower": "a/b"}, "a/b"),
        ({"mm_vision_tower": ""}, None),
        ({"mm_vision_tower": ["a/b"]}, None),
        ({}, None),
    ],
)
def test_vision_tower(config, expected):
    assert vision_tower_id(config) == expected
    pointer = vision_tower_pointer(config)
    assert (config[pointer[1:]] if pointer else None) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"mm_vision_tower": CLIP}, [("/mm_vision_tower", CLIP)]),
        ({"mm_vision_tower": "../clip"}, []),
        ({"mm_vision_tower": "/opt/models/clip"}, []),
        ({"mm_vision_tower": "{model_root}/clip"}, []),
        ({"mm_vision_tower": "C:\\models\\clip"}, []),
        ({"mm_vision_tower": None}, []),
        ({"_name_or_path": "liuhaotian/llava-v1.5-7b"},
         [("/_name_or_path", "liuhaotian/llava-v1.5-7b")]),
        ({"_name_or_path": "gpt2"}, [("/_name_or_path", "gpt2")]),
        ({"_name_or_path": "./checkpoints/vicuna"}, []),
        ({"_name_or_path": ""}, []),
        ({"text_config": {"_name_or_path": "lmsys/vicuna-7b-v1.5"}},
         [("/text_config/_name_or_path", "lmsys/vicuna-7b-v1.5")]),
        ({"base_model_name_or_path": "lmsys/vicuna-7b-v1.5"},
         [("/base_model_name_or_path", "lmsys/vicuna-7b-v1.5")]),
        ({"auto_map": {"AutoConfig": "configuration_llava.LlavaConfig"}},
         [("/auto_map/AutoConfig", "configuration_llava.LlavaConfig")]),
        ({"auto_map": {"AutoTokenizer": ["a/b--tokenization.T", None]}},
         [("/auto_map/AutoTokenizer/0", "a/b--tokenization.T")]),
        ({"some_new_key": {"deep": ["x", "google/siglip-base"]}},
         [("/some_new_key/deep/1", "google/siglip-base")]),
        ({"a/b": {"~x": "org/name"}}, [("/a~1b/~0x", "org/name")]),
        ({"format": "image/png", "file": "processor/config.json", "prompt": "yes/no "}, []),
        ({"added_tokens_decoder": {"3": {"content": "and/or"}}}, []),
        ({"model": {"vocab": {"and/or": 3}, "merges": ["and/ or", "and/or"]}}, []),
        ({"license": "https://example.org/a"}, []),
        (["org/name"], [("/0", "org/name")]),
    ],
)  # fmt: skip
def test_remote_ids(value, expected):
    assert remote_ids(as_json(value)) == expected


def test_a_published_config_names_its_tower_only():
    config = llava_config(TinyLlava(tower_id=CLIP, tiles=True))
    assert remote_ids(as_json(config)) == [("/mm_vision_tower", CLIP)]


def test_provenance_is_emptied_and_nothing_else():
    data = as_json({"_name_or_path": "a/b", "mm_vision_tower": CLIP, "x": {"name_or_path": "c"}})
    rewrites = provenance_rewrites(data)
    assert [(r.pointer, r.old, r.new) for r in rewrites] == [
        ("/_name_or_path", "a/b", ""),
        ("/x/name_or_path", "c", ""),
    ]
    for rewrite in rewrites:
        data = rewrite_pointer(data, rewrite.pointer, rewrite.new)
    assert remote_ids(data) == [("/mm_vision_tower", CLIP)]


def test_a_rewrite_changes_one_line():
    config = llava_config(TinyLlava(tower_id=CLIP))
    before = as_json(config)
    after = rewrite_pointer(before, "/mm_vision_tower", "../clip")
    changed = [
        (old, new)
        for old, new in zip(before.splitlines(), after.splitlines(), strict=True)
        if old != new
    ]
    assert changed == [
        (f'  "mm_vision_tower": "{CLIP}",'.encode(), b'  "mm_vision_tower": "../clip",')
    ]
    assert rewrite_pointer(after, "/mm_vision_tower", CLIP) == before


@pytest.mark.parametrize(
    ("before", "pointer", "value", "after"),
    [
        (b'{"a": 1e-05, "b": "x"}', "/b", "y", b'{\n  "a": 1e-05,\n  "b": "y"\n}'),
        (b'{"b": "x"}\n', "/b", None, b"{}\n"),
        ('{"a": "é", "b": "x"}'.encode(), "/b", "ü", '{\n  "a": "é",\n  "b": "ü"\n}'.encode()),
        (b'{"b": {"c/d": ["x", "y"]}}', "/b/c~1d/1", "z",
         b'{\n  "b": {\n    "c/d": [\n      "x",\n      "z"\n    ]\n  }\n}'),
        (b'{"n": 1000000000000000019884624838656, "b": ""}', "/b", "",
         b'{\n  "n": 1000000000000000019884624838656,\n  "b": ""\n}'),
    ],
)  # fmt: skip
def test_rewriting(before, pointer, value, after):
    assert rewrite_pointer(before, pointer, value) == after


@pytest.mark.parametrize("pointer", ["/absent", "/a/b", "/list/7", "/list/x", ""])
def test_a_pointer_to_nothing(pointer):
    with pytest.raises(CheckpointError, match="no value at"):
        rewrite_pointer(b'{"a": 1, "list": []}', pointer, "x")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_no_json(data):
    with pytest.raises(CheckpointError, match="not valid JSON"):
        parse_config(data)
    with pytest.raises(CheckpointError, match="not valid JSON"):
        remote_ids(data)


def test_other_json_and_far_too_much_of_it():
    with pytest.raises(CheckpointError, match="got a list"):
        parse_config(b"[]")
    with pytest.raises(CheckpointError, match="at most"):
        parse_config(b" " * (64 << 20) + b" ")
    with pytest.raises(CheckpointError, match="at most"):
        remote_ids(b" " * (64 << 20) + b" ")
