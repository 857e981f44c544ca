"""The two repositories of the demo, written as LLaVA's authors published theirs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from llama import EPSILON, HEADS, HIDDEN, INNER, LAYERS, VOCABULARY, SmallLlava
from pictures import MEAN, PATCH, SIDE, STD
from tower import TRAINED_LAYERS, WIDTH, tower_config
from vocabulary import BEGIN, END, UNKNOWN, Vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import CLIPModel

TOWER_ID = "not--on-the-hub/clip-demo"
LONGEST = 2048

MODEL_CONFIG: dict[str, Any] = {
    "_name_or_path": "llava-v1-demo",
    "architectures": ["LlavaLlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "freeze_mm_mlp_adapter": False,
    "freeze_mm_vision_resampler": False,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "image_aspect_ratio": "pad",
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "max_length": LONGEST,
    "max_position_embeddings": LONGEST,
    "mm_hidden_size": WIDTH,
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": TOWER_ID,
    "model_type": "llava",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": HEADS,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "rms_norm_eps": EPSILON,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0",
    "tune_mm_mlp_adapter": False,
    "tune_mm_vision_resampler": False,
    "unfreeze_mm_vision_tower": False,
    "use_cache": True,
    "use_mm_proj": True,
    "vocab_size": VOCABULARY,
}
"""Source: liuhaotian/llava-v1.5-7b, config.json, with the demo's own sizes."""

GENERATION_CONFIG = {
    "_from_model_config": True,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "max_length": LONGEST,
    "pad_token_id": 0,
    "transformers_version": "4.31.0",
}


def write_model(folder: Path, model: SmallLlava, vocabulary: Vocabulary) -> None:
    """Write two fp16 shards (the projector in the second), their index and the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.half() for name, value in model.state_dict().items()}
    shards: list[dict[str, torch.Tensor]] = [{}, {}]
    for name, value in tensors.items():
        shards[not _in_first(name)][name] = value.clone().contiguous()
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save(shard, folder / file)
        weight_map.update(dict.fromkeys(shard, file))
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(folder / "pytorch_model.bin.index.json", index)
    _write_json(folder / "config.json", MODEL_CONFIG)
    _write_json(folder / "generation_config.json", GENERATION_CONFIG)
    _write_json(folder / "special_tokens_map.json", _special_tokens())
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    (folder / "tokenizer.model").write_bytes(vocabulary.model)


def write_tower(folder: Path, clip: CLIPModel) -> None:
    """Write the whole CLIP in fp16 and what its image processor must do."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.half().clone().contiguous()
        for name, value in clip.state_dict().items()
        if not name.endswith("position_ids")
    }
    torch.save(tensors, folder / "pytorch_model.bin")
    _write_json(folder / "config.json", _tower_config())
    processor = {
        "crop_size": SIDE,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "resample": 3,
        "size": SIDE,
    }
    _write_json(folder / "preprocessor_config.json", processor)


def _in_first(name: str) -> bool:
    """Say whether a tensor belongs to the first shard: the embedding and the lower layers."""
    lower = tuple(f"model.layers.{number}." for number in range(LAYERS // 2 + 1))
    return name.startswith(("model.embed_tokens", *lower))


def _tower_config() -> dict[str, Any]:
    config = tower_config()
    both = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_act",
        "layer_norm_eps",
        "projection_dim",
    )
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    text = (*both, "vocab_size", "max_position_embeddings", *ids)
    vision = (*both, "image_size", "patch_size", "num_channels")
    assert config.vision_config.num_hidden_layers == TRAINED_LAYERS + 1
    assert (config.vision_config.image_size, config.vision_config.patch_size) == (SIDE, PATCH)
    return {
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": config.projection_dim,
        "text_config": {
            "model_type": "clip_text_model",
            **{key: getattr(config.text_config, key) for key in text},
        },
        "torch_dtype": "float16",
        "vision_config": {
            "model_type": "clip_vision_model",
            **{key: getattr(config.vision_config, key) for key in vision},
        },
    }


def _special_tokens() -> dict[str, Any]:
    def token(content: str) -> dict[str, Any]:
        return {
            "content": content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
        }

    return {
        "bos_token": token("<s>"),
        "eos_token": token("</s>"),
        "pad_token": "<unk>",
        "unk_token": token("<unk>"),
    }


def _tokenizer_config() -> dict[str, Any]:
    def token(content: str) -> dict[str, Any]:
        return {
            "__type": "AddedToken",
            "content": content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
        }

    assert (UNKNOWN, BEGIN, END) == (0, 1, 2)
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": token("<s>"),
        "clean_up_tokenization_spaces": False,
        "eos_token": token("</s>"),
        "legacy": False,
        "model_max_length": LONGEST,
        "pad_token": None,
        "padding_side": "right",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": token("<unk>"),
    }


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
