"""InternVL as its authors publish it: what is refused, from the small files and the headers alone."""

import json
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor

from llava_pack.checkpoint.internvl import internvl
from llava_pack.checkpoint.internvl_names import row_pieces
from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.layout import read_layout, survey
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.convert.tokenizer import made_tokenizer
from llava_pack.format.errors import CheckpointError
from llava_pack.format.exit_codes import ExitCode
from tests.support.checkpoints import write_weights
from tests.support.internvl_files import TinyInternVl, published_config, write_texts
from tests.support.pickles import Stored
from tests.support.tiny_models import Values

REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "InternVL2-4B": ({}, {"model_type": "phi3"}, {}, "'phi3', expected one of: internlm2, llama"),
    "InternVL3_5": ({}, {"model_type": "qwen3"}, {}, "'qwen3', expected one of"),
    "V2PE": ({}, {"rope_pos_id_version": "v2pe"}, {}, "rope_pos_id_version is not 'default'"),
    "swapped sides": ({"ps_version": "v1"}, {}, {}, "ps_version is 'v1', expected one of: v2"),
    "padded": ({"pad2square": True}, {}, {}, "pad2square is True, expected false"),
    "no small whole": ({"use_thumbnail": False}, {}, {}, "use_thumbnail is False, expected true"),
    "fewer than the fewest": ({"min_dynamic_patch": 5}, {}, {}, "at most max_dynamic_patch, 4"),
    "another template": ({"template": "phi3-chat"}, {}, {}, "template is 'phi3-chat', expected"),
    "another side": ({"force_image_size": 224}, {}, {}, "force_image_size is 224, expected"),
    "a layer that is not there": ({"select_layer": -9}, {}, {}, "select_layer is -9, expected one"),
    "half a patch": ({"downsample_ratio": 0.4}, {}, {}, "downsample_ratio is 0.4, expected"),
    "no language model": ({"llm_config": None}, {}, {}, "llm_config is None, expected an object"),
    "another precision of the norm": (
        {}, {}, {"qk_normalization": True, "layer_norm_eps": 1e-5}, "beside qk_normalization",
    ),
    "heads that do not divide": ({}, {}, {"num_attention_heads": 5}, "expected a multiple of 5"),
    "more layers than there are": ({}, {}, {"num_hidden_layers": 10**6}, "num_hidden_layers is"),
    "another norm": ({}, {}, {"norm_type": "batch_norm"}, "norm_type is 'batch_norm', expected"),
    "quantized": ({"quantization_config": {"quant_method": "awq"}}, {}, {}, "was quantized ahead"),
}  # fmt: skip


def tensors(config: dict[str, Any]) -> dict[str, Stored]:
    """Return a few of the published tensors: those that are cut apart, and one of each part."""
    values = Values(3)
    text = config["llm_config"]
    hidden, groups, heads = (
        text[key] for key in ("hidden_size", "num_key_value_heads", "num_attention_heads")
    )
    rows = (heads + 2 * groups) * hidden // heads
    shapes = {
        "vision_model.encoder.layers.0.attn.qkv.weight": (96, 32),
        "mlp1.0.weight": (128,),
        "language_model.model.layers.0.attention.wqkv.weight": (rows, hidden),
    }
    return {name: values.tensor(name, shape, "F16") for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path):
    spec = TinyInternVl(language="internlm2")
    words = write_texts(tmp_path / "InternVL2-tiny", spec)
    held = tensors(published_config(spec, words))
    write_weights(tmp_path / "InternVL2-tiny", held, weights="safetensors")
    return tmp_path / "InternVL2-tiny"


def edit(folder: Any, changes: dict[str, Any], llm: dict[str, Any], vision: dict[str, Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_bytes())
    config["llm_config"] |= llm
    config["vision_config"] |= vision
    path.write_text(json.dumps(config | changes))


@pytest.mark.parametrize("name", REFUSED)
def test_what_transformers_class_cannot_be_is_refused(folder, name):
    *changes, words = REFUSED[name]
    edit(folder, *changes)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_layout(folder)
    assert caught.value.exit_code is ExitCode.CHECKPOINT


def test_the_way_out_of_another_language_model_is_named(folder):
    edit(folder, {}, {"model_type": "phi3"}, {})
    with pytest.raises(CheckpointError) as caught:
        read_layout(folder)
    assert "OpenGVLab/InternVL3-8B-hf" in caught.value.hint


def test_code_and_what_names_it_are_passed_over(folder):
    layout, defects = survey(folder)
    assert layout.kind is Kind.INTERNVL
    assert not [one for one in defects if "auto_map" in one.message]
    assert [one.level for one in defects if one.subject.endswith(".py")] == ["warn"]
    (folder / "modeling.pyc").write_text("")
    assert [one.level for one in survey(folder)[1] if one.subject == "modeling.pyc"] == ["fail"]


def test_all_tensors_that_lack_are_told(folder):
    (one,) = [one for one in survey(folder)[1] if one.level == "fail"]
    assert one.message.startswith("lack language_model.model.embed_tokens.weight")


def test_an_adapter_beside_its_linear_is_not_merged(folder):
    held = tensors(json.loads((folder / "config.json").read_bytes()))
    inner = "encoder.layers.0.attn.qkv.weight"
    whole = held.pop(f"vision_model.{inner}")
    held[f"vision_model.base_model.model.{inner.replace('weight', 'base_layer.weight')}"] = whole
    write_weights(folder, held, weights="safetensors")
    with pytest.raises(CheckpointError, match="part of an adapter that was not merged") as caught:
        read_layout(folder)
    assert "merge_lora.py" in caught.value.hint


def test_rows_that_cannot_be_cut_apart_are_refused():
    entry = TensorEntry("language_model.model.layers.0.attention.wqkv.weight", "F16", (7, 4))
    with pytest.raises(CheckpointError, match="not queries, keys and values of 2 key-value heads"):
        list(row_pieces(entry, "internlm2", 4, 2))


def test_rows_of_heads_that_share_a_key_are_told_apart():
    name = "language_model.model.layers.0.attention.wqkv.weight"
    pieces = list(row_pieces(TensorEntry(name, "F16", (2 * 4 * 3, 8)), "internlm2", 4, 2))
    where = "language_model.model.layers.0.self_attn"
    assert [(one.entry.name, one.entry.shape) for one in pieces] == [
        (f"{where}.q_proj.weight", (12, 8)),
        (f"{where}.k_proj.weight", (6, 8)),
        (f"{where}.v_proj.weight", (6, 8)),
    ]
    assert [(one.block, one.start, one.stop) for one in pieces] == [
        (12, 0, 6), (12, 6, 9), (12, 9, 12),
    ]  # fmt: skip


def test_a_vocabulary_without_words_for_a_picture(folder):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_bytes())
    decoder = config["added_tokens_decoder"]
    config["added_tokens_decoder"] = {
        number: one for number, one in decoder.items() if one["content"] == "<|im_start|>"
    }
    path.write_text(json.dumps(config))
    found = [one.message for one in survey(folder)[1] if "stand in every prompt" in one.message]
    words = "<img>, </img>, <IMG_CONTEXT>, <|im_end|>"
    assert found == [f"the vocabulary lacks {words}, which stand in every prompt"]


def test_places_kept_in_the_vocabulary_have_the_names_that_took_them(folder):
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(made_tokenizer(folder).decode())
    model = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for text in ("what is this?", "the  star\nis there", "a ü 书"):
        assert made.encode(text, add_special_tokens=False).ids == model.encode(text)
    assert made.encode(text).ids[0] == model.bos_id()
    ends = made.token_to_id("<|im_end|>")
    assert model.id_to_piece(ends) == "[UNUSED_TOKEN_142]"
    assert made.encode("a<|im_end|>", add_special_tokens=False).ids[-1] == ends
    assert ends not in made.encode("[UNUSED_TOKEN_142]").ids  # nobody types it


def test_pictures_and_the_cut_off_layers_are_told():
    spec = TinyInternVl(layers=3, select=-2)
    made = internvl(published_config(spec, 100))
    assert (made.tiles, made.tile_tokens, made.tower["num_hidden_layers"]) == ((1, 4), 4, 2)
    assert "vision_tower.encoder.layer.2.lambda_1" not in made.shapes()
    one = TinyInternVl(changes={"dynamic_image_size": False, "use_thumbnail": False})
    assert internvl(published_config(one, 100)).tiles == (1, 1)
