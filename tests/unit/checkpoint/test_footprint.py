from dataclasses import replace

import pytest

from llava_pack.checkpoint.footprint import (
    Parameters,
    cache_bytes_per_token,
    count_parameters,
    footprint,
    memory_bytes,
    parameters_of,
    tower_parameters,
    working_bytes,
)
from llava_pack.format.errors import CheckpointError
from llava_pack.format.precision import PRECISIONS
from tests.support.checkpoints import (
    TinyLlava,
    TinyTower,
    llava_config,
    llava_tensors,
    tower_config,
    tower_tensors,
)

CLIP_L = {
    "vision_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
    }
}  # fmt: skip
VICUNA_7B = {
    "model_type": "llava", "hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 32000,
    "num_hidden_layers": 32, "num_attention_heads": 32, "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
}  # fmt: skip
VICUNA_13B = {
    **VICUNA_7B, "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
    "num_attention_heads": 40,
}  # fmt: skip
MISTRAL_7B = {
    **VICUNA_7B, "model_type": "llava_mistral", "intermediate_size": 14336,
    "num_key_value_heads": 8,
}  # fmt: skip
GIB = 1 << 30


def test_published_sizes():
    assert tower_parameters(CLIP_L) == 607_014_912 // 2
    parameters = count_parameters(VICUNA_7B, CLIP_L)
    last_layer = 12_596_224  # of the tower: behind the features, so it is not built
    assert parameters.total == 6_738_415_616 + 20_979_712 + 607_014_912 // 2 - last_layer


@pytest.mark.parametrize(
    ("config", "fp16", "int8", "nf4", "cache_kib"),
    [
        (VICUNA_7B, 13.1, 7.1, 4.2, 512),
        (VICUNA_13B, 24.9, 13.0, 7.3, 800),
        (MISTRAL_7B, 14.1, 7.6, 4.4, 128),
    ],
)
def test_weights_of_the_published_models(config, fp16, int8, nf4, cache_kib):
    parameters = count_parameters(config, CLIP_L)
    for precision, expected in (("fp16", fp16), ("int8", int8), ("nf4", nf4)):
        weights = footprint(
            parameters, config, precision=precision, device="cuda", context_tokens=4096, slots=1
        ).weights_bytes
        assert weights / GIB == pytest.approx(expected, abs=0.06)
    assert cache_bytes_per_token(config) == cache_kib << 10


def test_a_7b_in_4_bits_fits_where_its_authors_say():
    counted = count_parameters(VICUNA_7B, CLIP_L)
    memory = memory_bytes(counted, VICUNA_7B, context_tokens=4096, slots=1)
    assert list(memory) == list(PRECISIONS)
    assert memory["nf4"] < 8e9 * 1.05 < memory["int8"] < memory["fp16"] < memory["fp32"]


@pytest.mark.parametrize(
    "spec",
    [
        TinyLlava(),
        TinyLlava(tiles=True),
        TinyLlava(projector="linear", groups=2),
        TinyLlava(changes={"tie_word_embeddings": True, "attention_bias": True}),
        TinyLlava(tower=TinyTower(layers=2, width=24, inner=20, picture=42)),
        TinyLlava(qwen=True, tiles=True, tower=TinyTower(siglip=True)),
        TinyLlava(qwen=True, tied=True, tower=TinyTower(siglip=True)),
    ],
)
def test_parameters_are_counted_as_the_tensors_have_them(spec):
    tensors = llava_tensors(spec)
    vision = {n: t for n, t in tower_tensors(spec.tower).items() if n.startswith("vision_model.")}
    vision.pop("vision_model.embeddings.position_ids")
    unused = (".head.", f".layers.{spec.tower.layers - 1}.")  # the last layer is not built
    vision = {n: one for n, one in vision.items() if not any(part in n for part in unused)}
    counted = count_parameters(llava_config(spec), tower_config(spec.tower))
    held = parameters_of([(n, t.shape) for n, t in (tensors | vision).items()])
    assert replace(counted, features=0) == held
    assert bool(counted.features) is spec.tiles


def test_the_tiles_of_one_picture_are_worked_on():
    spec = TinyLlava(qwen=True, tiles=True, tower=TinyTower(siglip=True))
    config, tower = llava_config(spec), tower_config(spec.tower)
    assert count_parameters(config, tower).features == (1 + 6 * 6) * 2 * 2 * spec.hidden
    sizes = {"context_tokens": 64, "slots": 1, "element_bytes": 4}
    more = working_bytes(config, **sizes, features=100) - working_bytes(config, **sizes)
    assert more == 2 * 100 * 4


def test_more_slots_and_tokens_take_more():
    def total(**options):
        wish = {"context_tokens": 2048, "slots": 1, **options}
        return memory_bytes(count_parameters(VICUNA_7B, CLIP_L), VICUNA_7B, **wish)["nf4"]

    assert total() < total(slots=2) < total(slots=8)
    assert total() < total(context_tokens=4096)
    assert total(slots=8, context_tokens=4096) - total(context_tokens=4096) >= 7 * 2 * GIB


def test_a_config_without_sizes():
    lacking = {k: v for k, v in VICUNA_7B.items() if k != "vocab_size"}
    with pytest.raises(CheckpointError, match="vocab_size"):
        count_parameters(lacking, CLIP_L)
    with pytest.raises(CheckpointError, match="vocab_size"):
        memory_bytes(Parameters(stored_bytes=1), lacking, context_tokens=1, slots=1)
