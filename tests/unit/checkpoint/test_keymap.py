import pytest

from llava_pack.checkpoint.keymap import (
    exchange_name,
    is_weight,
    loaded_name,
    original_name,
    plain_name,
    projector_name,
    tower_loaded_name,
)
from tests.support.checkpoints import TinyLlava, llava_tensors


@pytest.mark.parametrize(
    ("name", "loaded", "exchange"),
    [
        ("lm_head.weight", "lm_head.weight", "language_model.lm_head.weight"),
        (
            "model.embed_tokens.weight",
            "model.language_model.embed_tokens.weight",
            "language_model.model.embed_tokens.weight",
        ),
        (
            "model.layers.31.self_attn.q_proj.weight",
            "model.language_model.layers.31.self_attn.q_proj.weight",
            "language_model.model.layers.31.self_attn.q_proj.weight",
        ),
        (
            "model.mm_projector.0.weight",
            "model.multi_modal_projector.linear_1.weight",
            "multi_modal_projector.linear_1.weight",
        ),
        (
            "model.mm_projector.2.bias",
            "model.multi_modal_projector.linear_2.bias",
            "multi_modal_projector.linear_2.bias",
        ),
        (
            "model.mm_projector.4.bias",
            "model.multi_modal_projector.linear_3.bias",
            "multi_modal_projector.linear_3.bias",
        ),
        (
            "model.mm_projector.weight",
            "model.multi_modal_projector.weight",
            "multi_modal_projector.weight",
        ),
        ("model.image_newline", "model.image_newline", "image_newline"),
        (
            "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
            "model.vision_tower.encoder.layers.0.mlp.fc1.bias",
            "vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
        ),
        ("model.vision_tower.vision_tower.vision_model.embeddings.position_ids", None, None),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", None, None),
    ],
)
def test_names(name, loaded, exchange):
    assert loaded_name(name) == loaded
    assert exchange_name(name) == exchange
    assert is_weight(name) == (loaded is not None)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("base_model.model.model.mm_projector.0.weight", "model.mm_projector.0.weight"),
        ("base_model.model.lm_head.weight", "lm_head.weight"),
        ("model.mm_projector.0.weight", "model.mm_projector.0.weight"),
        ("module.model.mm_projector.0.weight", "model.mm_projector.0.weight"),
        ("model.model.layers.0.x", "model.layers.0.x"),
    ],
)
def test_names_as_training_leaves_them(name, plain):
    assert plain_name(name) == plain


@pytest.mark.parametrize(
    ("name", "loaded"),
    [
        (
            "vision_model.embeddings.class_embedding",
            "model.vision_tower.embeddings.class_embedding",
        ),
        ("vision_model.embeddings.position_ids", None),
        ("text_model.final_layer_norm.bias", None),
        ("visual_projection.weight", None),
        ("logit_scale", None),
    ],
)
def test_names_of_a_tower(name, loaded):
    assert tower_loaded_name(name) == loaded


@pytest.mark.parametrize(
    "spec",
    [TinyLlava(vision_inside=True, tiles=True), TinyLlava(projector="linear")],
)
def test_every_name_comes_back_from_every_release(spec):
    for name in llava_tensors(spec):
        exchange, loaded = exchange_name(name), loaded_name(name)
        flat = exchange.replace("vision_tower.vision_model.", "vision_tower.")
        nested = loaded.replace("model.vision_tower.", "model.vision_tower.vision_model.")
        assert {original_name(n) for n in (exchange, flat, loaded, nested)} == {name}


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("linear_1.weight", "model.mm_projector.0.weight"),
        ("multi_modal_projector.linear_2.bias", "model.mm_projector.2.bias"),
        ("model.multi_modal_projector.linear_2.bias", "model.mm_projector.2.bias"),
        ("mm_projector.0.weight", "model.mm_projector.0.weight"),
        ("model.mm_projector.0.weight", "model.mm_projector.0.weight"),
        ("model.mm_projector.weight", "model.mm_projector.weight"),
        ("base_model.model.model.mm_projector.2.bias", "model.mm_projector.2.bias"),
        ("base_model.model.model.image_newline", "model.image_newline"),
    ],
)
def test_a_projector_saved_by_itself(name, original):
    assert projector_name(name) == original
