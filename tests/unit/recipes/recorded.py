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

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
FILES |= {
    "llava-hf/llava-v1.6-mistral-7b-hf": (
        "added_tokens.json",
        "config.json",
        "generation_config.json",
        *(f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)),
        "model.safetensors.index.json",
        "preprocessor_config.json",
        *_TOKENIZER,
    ),
    "llava-hf/llava-interleave-qwen-0.5b-hf": (
        "added_tokens.json",
        "chat_template.json",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors",
        "preprocessor_config.json",
        "processor_config.json",
        *_TOKENIZER,
        "vocab.json",
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
_CLIP_336 = {
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
}
_SIGLIP_384 = {
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "image_size": 384,
    "intermediate_size": 4304,
    "layer_norm_eps": 1e-06,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 26,
    "patch_size": 14,
    "vision_use_head": False,
}
_MISTRAL_TEXT = {"intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral", "num_key_value_heads": 8, "vocab_size": 32064}  # fmt: skip
_LLAMA_3_TEXT = {
    "bos_token_id": 128000,
    "eos_token_id": 128009,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "vocab_size": 128320,
}
_NEXT_POINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def _converted(kind: str, text: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Return config.json of a converted repository with a CLIP tower."""
    return {
        "architectures": [f"{kind}ForConditionalGeneration"],
        "model_type": {"Llava": "llava", "LlavaNext": "llava_next"}[kind],
        "projector_hidden_act": "gelu",
        "text_config": text,
        "vision_config": _CLIP_336,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        **({"image_grid_pinpoints": _NEXT_POINTS} if kind == "LlavaNext" else {}),
        **others,
    }


def _onevision(text: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Return config.json of LLaVA-OneVision, whose layouts are the class's own."""
    return {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "image_token_index": 151646,
        "model_type": "llava_onevision",
        "projector_hidden_act": "gelu",
        "text_config": {**text, "model_type": "qwen2", "rope_theta": 1000000.0},
        "vision_aspect_ratio": "anyres_max_9",
        "vision_config": _SIGLIP_384,
        **others,
    }


CONFIGS |= {
    "llava-hf/llava-interleave-qwen-0.5b-hf": {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": 151646,
        "model_type": "llava",
        "projector_hidden_act": "gelu",
        "text_config": {
            "architectures": ["Qwen2ForCausalLM"],
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "max_position_embeddings": 32768,
            "max_window_layers": 21,
            "model_type": "qwen2",
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "num_key_value_heads": 16,
            "rope_theta": 1000000.0,
            "sliding_window": 32768,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "vocab_size": 152000,
        },
        "vision_config": _SIGLIP_384,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    },
    "llava-hf/llama3-llava-next-8b-hf": _converted(
        "LlavaNext", _LLAMA_3_TEXT, image_token_index=128256
    ),
    "xtuner/llava-llama-3-8b-v1_1-transformers": _converted(
        "Llava",
        {**_LLAMA_3_TEXT, "eos_token_id": 128001},
        image_token_index=128257,
        pad_token_id=128258,
    ),
}
_13B = {"hidden_size": 5120, "intermediate_size": 13824, "model_type": "llama", "num_attention_heads": 40, "num_hidden_layers": 40, "num_key_value_heads": 40, "vocab_size": 32064}  # fmt: skip
COMPUTED_CONFIGS |= {
    "llava-hf/llava-v1.6-mistral-7b-hf": _converted("LlavaNext", _MISTRAL_TEXT),
    "llava-hf/llava-v1.6-vicuna-7b-hf": _converted(
        "LlavaNext", {"model_type": "llama", "vocab_size": 32064}
    ),
    "llava-hf/llava-1.5-7b-hf": _converted(
        "Llava", {"model_type": "llama", "vocab_size": 32064}, image_token_index=32000
    ),
    "llava-hf/llava-1.5-13b-hf": _converted("Llava", _13B),
    "llava-hf/bakLlava-v1-hf": _converted("Llava", _MISTRAL_TEXT),
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": _onevision(
        {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_attention_heads": 14,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "vocab_size": 152000,
        }
    ),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": _onevision(
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152128,
        }
    ),
    "microsoft/llava-med-v1.5-mistral-7b": {
        **_V15,
        "architectures": ["LlavaMistralForCausalLM"],
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "mm_patch_merge_type": "flat",
        "model_type": "llava_mistral",
        "num_key_value_heads": 8,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tokenizer_model_max_length": 2048,
        "torch_dtype": "bfloat16",
        "unfreeze_mm_vision_tower": True,
    },
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
    **{
        f"llava-hf/{name}": (*_SMALL, "preprocessor_config.json", _INDEX, *_shards(count))
        for name, count in {
            "llava-v1.6-vicuna-7b-hf": 3,
            "llava-1.5-13b-hf": 6,
            "llava-onevision-qwen2-7b-ov-hf": 4,
            "bakLlava-v1-hf": 4,
            "llama3-llava-next-8b-hf": 4,
        }.items()
    },
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": (
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        *_TOKENIZER,
    ),
    "microsoft/llava-med-v1.5-mistral-7b": (*_SMALL, _INDEX, *_shards(4)),
    "dir:llava-budget-projector": ("mm_projector.bin",),
}
FILES["xtuner/llava-llama-3-8b-v1_1-transformers"] = (
    "config.json",
    "generation_config.json",
    _INDEX,
    *_shards(4),
    "preprocessor_config.json",
    *_TOKENIZER,
)
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
SIGLIP_PREPROCESSOR: dict[str, Any] = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 384, "width": 384},
}
"""preprocessor_config.json of Google's SigLIP repositories."""
PUBLISHED_GB = {"llava-hf/llava-interleave-qwen-0.5b-hf": 1.73}
"""Of all weights in 16 bits, as a public page shows it."""
WEIGHT_BYTES = {
    "liuhaotian/llava-v1.5-7b": 13_518_798_848,
    "liuhaotian/llava-v1.5-13b": 26_094_673_920,
    "liuhaotian/llava-v1.6-vicuna-7b": 14_125_813_760,
    "liuhaotian/llava-v1.6-mistral-7b": 15_132_446_720,
    "liuhaotian/llava-v1.6-34b": 69_502_332_928,
}
"""Of all weights, in 1.5 with rotary tables; 1.5-7b as its index says, the others computed."""
