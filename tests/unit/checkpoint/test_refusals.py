"""What a configuration, a base or an option is refused for, one value at a time."""

import json
from typing import Any

import pytest

from llava_pack.checkpoint import safetensors_file
from llava_pack.checkpoint.adapter import sorted_contents
from llava_pack.checkpoint.adapter_findings import over_base_defects
from llava_pack.checkpoint.based import adapter_settings, check_based
from llava_pack.checkpoint.byte_level import joined_tokenizer
from llava_pack.checkpoint.conformance import conformance_defects
from llava_pack.checkpoint.converted import as_original
from llava_pack.checkpoint.expected import tower_shapes
from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.layout import read_layout
from llava_pack.checkpoint.model import read_checkpoint
from llava_pack.checkpoint.network import network
from llava_pack.checkpoint.pickle_program import MAX_PROGRAM_BYTES, read_state_dict
from llava_pack.checkpoint.safetensors_file import render_header
from llava_pack.checkpoint.servable import engine_defects, upstream_defects
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.checkpoint.weight_file import open_weights
from llava_pack.format.errors import CheckpointError, PackError
from tests.support.checkpoints import (
    TinyLlava,
    TinyTower,
    llava_config,
    make_converted,
    make_language,
    make_llava,
    make_lora,
    make_tower,
    preprocessor_config,
    tower_config,
)

TOWER = TinyTower()
TILES = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[28, 56]]}


def told(changes=(), tower=(), preprocessor=()) -> str:
    """Return why no engine is made of a small LLaVA with other values."""
    config = llava_config(TinyLlava(tower=TOWER)) | dict(changes)
    vision = tower_config(TOWER)
    vision = vision | {"vision_config": vision["vision_config"] | dict(tower)}
    defects = engine_defects(config, vision, preprocessor_config(TOWER) | dict(preprocessor))
    return "\n".join(map(str, defects))


def test_a_small_llava_is_not_refused():
    assert told() == ""
    assert told(TILES) == ""


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"architectures": ["LlavaGemmaForCausalLM"]}, "the language model is 'gemma', expected"),
        ({"mm_projector_type": "identity"}, "mm_projector_type is 'identity', but the tower is"),
        ({"mm_resampler_type": "perceiver"}, "mm_resampler_type is 'perceiver', expected null"),
        ({"num_key_value_heads": 3}, "4 attention heads and 3 key-value heads: expected"),
        ({"bos_token_id": -1}, "bos_token_id is -1, expected an id of the vocabulary"),
        ({"image_aspect_ratio": "crop_split"}, "image_aspect_ratio is 'crop_split', expected pad"),
        ({**TILES, "image_aspect_ratio": "anyres_x"}, "expected anyres or anyres_max_9"),
        (
            {**TILES, "mm_vision_select_feature": "cls_patch", "mm_patch_merge_type": "spatial"},
            "expected 'flat' with features of 'cls_patch'",
        ),
        ({"mm_vision_select_layer": 99}, "mm_vision_select_layer is 99, expected a layer from"),
    ],
)
def test_values_of_config_json(changes, text):
    assert text in told(changes)


@pytest.mark.parametrize(
    ("tower", "text"),
    [
        ({"num_channels": 1}, "num_channels is 1, expected 3"),
        ({"num_attention_heads": 3}, "they do not fit together"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish', expected one of"),
        ({"model_type": "dinov2"}, "the vision tower is 'dinov2', expected one of"),
    ],
)
def test_values_of_a_tower(tower, text):
    assert text in told(tower=tower)


@pytest.mark.parametrize(
    ("preprocessor", "text"),
    [
        ({"do_resize": False}, "do_resize is False, expected true"),
        ({"image_std": [0, 1, 1]}, "image_std has 0, expected a number from 0.001 to 10"),
        ({"resample": 7}, "resample is 7, expected 0 to 3"),
        ({"crop_size": 0}, "not the preprocessor of a CLIP or SigLIP model"),
    ],
)
def test_values_of_a_preprocessor(preprocessor, text):
    assert told(preprocessor=preprocessor).startswith("preprocessor_config.json: ")
    assert text in told(preprocessor=preprocessor)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"multimodal_projector_bias": False}, "multimodal_projector_bias is False"),
        (
            {"vision_config": {"model_type": "siglip_vision_model"}},
            "vision_feature_select_strategy is 'default', which drops the first patch",
        ),
        (
            {"model_type": "llava_onevision", "vision_aspect_ratio": "square"},
            "vision_aspect_ratio is 'square', expected anyres_max_",
        ),
    ],
)
def test_values_of_a_conversion(changes, text):
    with pytest.raises(CheckpointError, match=text):
        as_original({"text_config": {"hidden_size": 64}, **changes})


def test_a_siglip_tower_in_llavas_own_code():
    tower = TinyTower(siglip=True)
    config = llava_config(TinyLlava(tower=tower))
    network(config, tower_config(tower))  # the engine takes it
    (defect,) = upstream_defects(config, tower_config(tower))
    assert defect.message == "LLaVA's own code has no SigLIP tower"


def test_tensors_of_a_tower_that_are_no_floats_or_too_many():
    config = tower_config(TOWER)
    entries = {name: TensorEntry(name, "I64", s) for name, s in tower_shapes(config).items()}
    more = "vision_model.encoder.layers.9.mlp.fc1.weight"
    entries[more] = TensorEntry(more, "F16", (1,))
    texts = [str(one) for one in conformance_defects(Kind.TOWER, config, {}, entries)]
    assert any("has type I64, expected one of F64" in text for text in texts)
    assert any("the weights have 10 layers" in text for text in texts)


class TestAnAdapter:
    """Over a base that it does not fit."""

    def test_of_a_table_with_dora(self):
        table = "base_model.model.model.embed_tokens.lora_"
        names = [table + one for one in ("embedding_A", "embedding_B", "magnitude_vector")]
        with pytest.raises(CheckpointError, match=r"an embedding with a magnitude \(DoRA\)"):
            sorted_contents(names)

    @pytest.mark.parametrize(
        ("entries", "base", "text"),
        [
            ({"lora_A": (4, 8), "lora_B": (8, 4)}, {}, "which the adapter changes"),
            ({"lora_A": (4, 8), "lora_B": (8, 4)}, {"weight": (9, 8)}, "the adapter expects"),
            ({"bias": (8,)}, {"bias": (9,)}, "the adapter's has (8,)"),
            ({}, {}, "neither adapter nor base has model.mm_projector"),
        ],
    )
    def test_tensors_without_a_place(self, entries, base, text):
        q = "model.layers.0.self_attn.q_proj"
        given = {
            name: TensorEntry(name, "F16", shape)
            for part, shape in entries.items()
            for name in [f"base_model.model.{q}.{part}{'.weight' if 'lora' in part else ''}"]
        }
        there = {f"{q}.{part}": TensorEntry(part, "F16", shape) for part, shape in base.items()}
        config = llava_config(TinyLlava())
        found = over_base_defects(given, there, config, tables_grow=False)
        assert any(text in str(one) for one in found)

    def test_over_a_tower_and_over_one_quantized_ahead(self, tmp_path):
        lora = read_layout(make_lora(tmp_path / "llava-tiny-lora"))
        tower = read_layout(make_tower(tmp_path / "clip-tiny"))
        with pytest.raises(CheckpointError, match="expected a language model or a LLaVA as the"):
            check_based(lora, tower)
        folder = make_language(tmp_path / "vicuna-tiny")
        config = json.loads((folder / "config.json").read_text())
        quantized: dict[str, Any] = {"quantization_config": {"load_in_8bit": True}}
        (folder / "config.json").write_text(json.dumps(config | quantized))
        with pytest.raises(CheckpointError, match="the base was quantized ahead of time"):
            check_based(lora, read_layout(folder))

    def test_without_its_settings(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"adapter_config\.json: no such file"):
            adapter_settings(tmp_path)


@pytest.mark.parametrize(
    ("make", "given", "text"),
    [
        (make_llava, {"model_base": "vicuna"}, "is a complete model; only an adapter or a"),
        (make_converted, {"vision_tower": "clip"}, "includes its vision tower"),
        (make_lora, {}, "its base model is missing, config.json names 'lmsys/vicuna-tiny'"),
    ],
)
def test_folders_that_a_model_has_no_use_for(tmp_path, make, given, text):
    folder = make(tmp_path / "llava-tiny")
    with pytest.raises(PackError, match=text):
        read_checkpoint(folder, **{name: tmp_path / value for name, value in given.items()})


def test_a_byte_level_tokenizer_of_another_kind(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    with pytest.raises(CheckpointError, match=r"'GPT2Tokenizer', expected Qwen2Tokenizer beside"):
        joined_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"merges\.txt: cannot be read as UTF-8"):
        joined_tokenizer(tmp_path)


def test_headers_and_pickles_that_are_too_large(monkeypatch):
    with pytest.raises(CheckpointError, match="expected at most"):
        read_state_dict(bytes(MAX_PROGRAM_BYTES + 1), subject="w.bin")
    monkeypatch.setattr(safetensors_file, "MAX_HEADER_BYTES", 64)
    with pytest.raises(CheckpointError, match="larger than the format allows"):
        render_header([TensorEntry("a" * 64, "F16", (1,))], {})


@pytest.mark.parametrize("name", ["w.bin", "w.safetensors"])
def test_a_folder_in_the_place_of_weights(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read: Is a directory"):
        open_weights(tmp_path / name)
