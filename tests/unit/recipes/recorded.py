"""What is known of the published repositories, from public lists, and what is only computed.

`FILES` and `CONFIGS` were read; `COMPUTED_FILES` and `COMPUTED_CONFIGS` were not: they follow from
the sizes that the base models' authors publish, at 5 GB a shard. A recipe that is held against one
of those says so in its `unverified` list.

Source: download scripts and forks that list each file; configurations as users printed them.
"""

from typing import Any

_SMALL = ("config.json", "generation_config.json", "special_tokens_map.json", "tokenizer.model", "tokenizer_config.json")  # fmt: skip

FILES: dict[str, tuple[str, ...]] = {
    "liuhaotian/llava-v1.5-7b": (
        *_SMALL,
        "mm_projector.bin",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
        "pytorch_model.bin.index.json",
    ),
    "liuhaotian/llava-v1.5-13b": (
        *_SMALL,
        "mm_projector.bin",
        "pytorch_model-00001-of-00003.bin",
        "pytorch_model-00002-of-00003.bin",
        "pytorch_model-00003-of-00003.bin",
        "pytorch_model.bin.index.json",
    ),
    "liuhaotian/llava-v1.6-vicuna-7b": (
        *_SMALL,
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
        "trainer_state.json",
        "training_args.bin",
    ),
    "liuhaotian/llava-v1.5-7b-lora": (
        "README.md",
        "adapter_config.json",
        "adapter_model.bin",
        "config.json",
        "non_lora_trainables.bin",
        "trainer_state.json",
    ),
}

_V15: dict[str, Any] = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "freeze_mm_mlp_adapter": False,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "image_aspect_ratio": "pad",
    "intermediate_size": 11008,
    "max_length": 4096,
    "max_position_embeddings": 4096,
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "model_type": "llava",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0",
    "tune_mm_mlp_adapter": False,
    "unfreeze_mm_vision_tower": False,
    "use_cache": True,
    "use_mm_proj": True,
    "vocab_size": 32000,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "liuhaotian/llava-v1.5-7b": _V15,
    "liuhaotian/llava-v1.6-vicuna-7b": {
        **_V15,
        "image_aspect_ratio": "anyres",
        "image_crop_resolution": 224,
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        "image_split_resolution": 224,
        "mm_patch_merge_type": "spatial_unpad",
        "mm_vision_tower_lr": 2e-06,
        "tokenizer_model_max_length": 4096,
        "tokenizer_padding_side": "right",
        "transformers_version": "4.36.2",
        "unfreeze_mm_vision_tower": True,
    },
}
COMPUTED_CONFIGS: dict[str, dict[str, Any]] = {
    "liuhaotian/llava-v1.5-13b": {
        **_V15,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_attention_heads": 40,
        "num_hidden_layers": 40,
        "num_key_value_heads": 40,
    },
    "liuhaotian/llava-v1.6-mistral-7b": {
        **CONFIGS["liuhaotian/llava-v1.6-vicuna-7b"],
        "architectures": ["LlavaMistralForCausalLM"],
        "intermediate_size": 14336,
        "model_type": "llava_mistral",
        "num_key_value_heads": 8,
        "rope_theta": 1000000.0,
        "sliding_window": None,
    },
    "liuhaotian/llava-v1.6-34b": {
        **CONFIGS["liuhaotian/llava-v1.6-vicuna-7b"],
        "hidden_size": 7168,
        "intermediate_size": 20480,
        "num_attention_heads": 56,
        "num_hidden_layers": 60,
        "num_key_value_heads": 8,
        "vocab_size": 64000,
    },
}
COMPUTED_CONFIGS["liuhaotian/llava-v1.6-vicuna-13b"] = {
    **CONFIGS["liuhaotian/llava-v1.6-vicuna-7b"],
    **{
        key: COMPUTED_CONFIGS["liuhaotian/llava-v1.5-13b"][key]
        for key in _V15
        if key.endswith("_size") or key.startswith("num_")
    },
}
COMPUTED_CONFIGS["llava-hf/llava-1.5-7b-hf"] = {
    "architectures": ["LlavaForConditionalGeneration"],
    "image_token_index": 32000,
    "model_type": "llava",
    "text_config": {"model_type": "llama", "vocab_size": 32064},
    "vision_config": {"hidden_size": 1024, "image_size": 336, "model_type": "clip_vision_model"},
}
TINY_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}


def _shards(count: int) -> tuple[str, ...]:
    return tuple(f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1))


_INDEX = "model.safetensors.index.json"
COMPUTED_FILES: dict[str, tuple[str, ...]] = {
    "liuhaotian/llava-v1.6-vicuna-13b": (*_SMALL, _INDEX, *_shards(6)),
    "liuhaotian/llava-v1.6-mistral-7b": (*_SMALL, _INDEX, *_shards(4)),
    "liuhaotian/llava-v1.6-34b": (*_SMALL, _INDEX, *_shards(15)),
    "llava-hf/llava-1.5-7b-hf": (*_SMALL, "preprocessor_config.json", _INDEX, *_shards(3)),
    "dir:llava-budget-projector": ("mm_projector.bin",),
}
CLIP_BASE_32: dict[str, Any] = {
    "model_type": "clip",
    "vision_config": {
        "hidden_size": 768,
        "image_size": 224,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "patch_size": 32,
    },
}
CLIP_LARGE_336: dict[str, Any] = {
    "model_type": "clip",
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
    },
}
PREPROCESSORS: dict[int, dict[str, Any]] = {
    side: {
        "crop_size": side,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": side,
    }
    for side in (224, 336)
}
"""preprocessor_config.json of OpenAI's CLIP repositories."""
WEIGHT_BYTES = {
    "liuhaotian/llava-v1.5-7b": 13_518_798_848,
    "liuhaotian/llava-v1.5-13b": 26_094_673_920,
    "liuhaotian/llava-v1.6-vicuna-7b": 14_125_813_760,
    "liuhaotian/llava-v1.6-mistral-7b": 15_132_446_720,
    "liuhaotian/llava-v1.6-34b": 69_502_332_928,
}
"""Of all weights, in 1.5 with rotary tables; 1.5-7b as its index says, the others computed."""
