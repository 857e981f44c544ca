"""The file lists and configurations of published repositories, as they were recorded.

Source: haotian-liu/LLaVA predict.py and public download scripts (lists); config.json as printed by
users of each model.
"""

import pytest

from llava_pack.checkpoint.expected import language_shapes, projector_shapes
from llava_pack.checkpoint.findings import file_defects
from llava_pack.checkpoint.footprint import parameters_of
from llava_pack.checkpoint.kind import Kind, backbone, classify, has_tiles, image_words
from llava_pack.checkpoint.routing import routing_defects
from llava_pack.checkpoint.weight_set import find_weights

CLIP = "openai/clip-vit-large-patch14-336"
SMALL = (
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
V15_7B = {
    "_name_or_path": "llava-v1.5-7b",
    "architectures": ["LlavaLlamaForCausalLM"],
    "hidden_size": 4096,
    "image_aspect_ratio": "pad",
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_tower": CLIP,
    "model_type": "llava",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "unfreeze_mm_vision_tower": False,
    "vocab_size": 32000,
}
V15_13B = {
    **V15_7B,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 40,
}
V16 = {
    "image_aspect_ratio": "anyres",
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    "mm_patch_merge_type": "spatial_unpad",
    "unfreeze_mm_vision_tower": True,
}
MISTRAL = {
    "architectures": ["LlavaMistralForCausalLM"],
    "intermediate_size": 14336,
    "model_type": "llava_mistral",
    "num_key_value_heads": 8,
}
YI_34B = {
    "hidden_size": 7168,
    "intermediate_size": 20480,
    "num_attention_heads": 56,
    "num_hidden_layers": 60,
    "num_key_value_heads": 8,
    "vocab_size": 64000,
}
VISION_BYTES = 607_014_912
"""The tower that the weights of 1.6 hold."""


def bins(count):
    names = [f"pytorch_model-{n:05d}-of-{count:05d}.bin" for n in range(1, count + 1)]
    return [*SMALL, "tokenizer.model", *names]


def tensors(count):
    names = [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    return [*SMALL, "tokenizer.model", "trainer_state.json", "training_args.bin", *names]


PUBLISHED = [
    ("llava-v1.5-7b", [*bins(2), "mm_projector.bin"], V15_7B, 13_518_798_848, 0),
    ("llava-v1.5-13b", [*bins(3), "mm_projector.bin"], V15_13B, 26_094_673_920, 0),
    ("llava-v1.6-vicuna-7b", tensors(3), {**V15_7B, **V16}, 14_125_813_760, VISION_BYTES),
    (
        "llava-v1.6-mistral-7b",
        tensors(4),
        {**V15_7B, **V16, **MISTRAL},
        15_132_446_720,
        VISION_BYTES,
    ),
    ("llava-v1.6-34b", tensors(15), {**V15_7B, **V16, **YI_34B}, 69_502_332_928, VISION_BYTES),
]
ROTARY_BYTES = 64 * 4
"""A layer's rotary table, which the weights of 1.5 still hold."""


@pytest.mark.parametrize(("name", "names", "config", "size_bytes", "vision_bytes"), PUBLISHED)
def test_originals(name, names, config, size_bytes, vision_bytes):
    kind = classify(names, config)
    assert kind is Kind.ORIGINAL
    assert backbone(config) == ("mistral" if "mistral" in name else "llama")
    assert has_tiles(config) == ("1.6" in name)
    assert image_words(config) == ()
    assert file_defects(names, kind) == []
    assert routing_defects(name, kind, config) == []
    weights = find_weights(names, lambda _: b"")
    assert weights.defects == ()
    assert weights.files == tuple(n for n in names if "-of-" in n)
    shapes = language_shapes(config) | projector_shapes(config)
    held_bytes = 2 * parameters_of(shapes.items()).total + vision_bytes
    rotary_bytes = config["num_hidden_layers"] * ROTARY_BYTES if "1.5" in name else 0
    assert held_bytes + rotary_bytes == size_bytes


@pytest.mark.parametrize(
    ("names", "config", "kind"),
    [
        (
            [*SMALL, "model-00001-of-00003.safetensors", "processor_config.json"],
            {
                "architectures": ["LlavaForConditionalGeneration"],
                "model_type": "llava",
                "text_config": {"_name_or_path": "lmsys/vicuna-7b-v1.5", "model_type": "llama"},
            },
            Kind.CONVERTED,
        ),
        (
            ["config.json", "merges.txt", "preprocessor_config.json", "pytorch_model.bin",
             "tf_model.h5", "vocab.json"],
            {"architectures": ["CLIPModel"], "model_type": "clip"},
            Kind.TOWER,
        ),
        (
            ["README.md", "adapter_config.json", "adapter_model.bin", "config.json",
             "non_lora_trainables.bin", "trainer_state.json"],
            V15_7B,
            Kind.LORA,
        ),
        (["config.json", "mm_projector.bin", "trainer_state.json"], V15_7B, Kind.PROJECTOR),
        ([*SMALL, "model.safetensors", "tokenizer.model", "tokenizer.json"],
         {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, Kind.LANGUAGE),
    ],
)  # fmt: skip
def test_the_others(names, config, kind):
    assert classify(names, config) is kind
