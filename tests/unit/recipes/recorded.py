"""What is known of the published repositories, from public lists; what is not known is not here.

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
WEIGHT_BYTES = {
    "liuhaotian/llava-v1.5-7b": 13_518_798_848,
    "liuhaotian/llava-v1.6-vicuna-7b": 14_125_813_760,
}
"""Of all weights without rotary tables; 1.5 as its index says, 1.6 computed."""
