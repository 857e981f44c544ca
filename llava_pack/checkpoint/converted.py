"""Converted (`-hf`) checkpoints in the words of the original ones, so that one set of rules fits.

Source: transformers models/llava, llava_next and llava_onevision configuration (defaults of text
and vision part, of layers and tiles); models/llama, mistral and qwen2 configuration.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any

from llava_pack.checkpoint.defects import shown
from llava_pack.checkpoint.keymap import original_name
from llava_pack.checkpoint.kind import NEXT, ONEVISION
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.checkpoint.values import choice, flag, refusal

_COMMON = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 32000,
}
_TEXT_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": _COMMON,
    "mistral": {**_COMMON, "intermediate_size": 14336, "num_key_value_heads": 8},
    "qwen2": {
        **_COMMON,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "vocab_size": 151936,
    },
}
_CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
_SELECT = {"default": "patch", "full": "cls_patch"}
_NEXT_TILES = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_ONEVISION_TILES = [[384 * rows, 384 * columns] for rows, columns in product(range(1, 7), repeat=2)]


def as_original(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what an original config.json would say of a converted checkpoint.

    Pictures are padded to squares, as LLaVA was trained, unless the folder says it wants none.

    Args:
        config: its config.json.
        preprocessor: how it prepares pictures.

    Raises:
        CheckpointError: a value has no counterpart there.

    >>> as_original({"text_config": {"hidden_size": 64}})["mm_hidden_size"]
    1024
    """
    part = config.get("text_config")
    text = part if isinstance(part, Mapping) else {}
    model_type = str(text.get("model_type", "llama"))
    merged = {**_TEXT_DEFAULTS.get(model_type, _COMMON), **text}
    onevision = _is(config, ONEVISION)
    tower = converted_tower(config)
    return {
        **merged,
        "model_type": model_type,
        "architectures": [],
        "mm_hidden_size": tower["hidden_size"],
        "mm_projector_type": _projector(config),
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": bool(config.get("mm_use_im_start_end", False)),
        "mm_vision_select_feature": _select(config, tower),
        "tie_word_embeddings": bool(
            text.get("tie_word_embeddings") or config.get("tie_word_embeddings")
        ),
        "mm_vision_select_layer": config.get("vision_feature_layer", -1 if onevision else -2),
        "unfreeze_mm_vision_tower": True,
        **_pictures(config, preprocessor or {}),
    }


def converted_tower(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a converted checkpoint says of its tower, with transformers' defaults.

    A part that is there has the defaults of the tower's own type; one that is not is LLaVA's.
    """
    given = config.get("vision_config")
    default = _SIGLIP if _is(config, ONEVISION) else _CLIP
    if not isinstance(given, Mapping):
        return dict(default)
    small = {"hidden_size": 768, "model_type": default["model_type"]}
    return {**small, **given}


def original_entries(entries: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Return a converted checkpoint's tensors by their original names."""
    return {original_name(name): entry for name, entry in entries.items()}


def _is(config: Mapping[str, Any], kinds: tuple[str, str]) -> bool:
    """Say whether a configuration is of a kind, by its type or its class."""
    model_type, name = kinds
    classes = config.get("architectures")
    return config.get("model_type") == model_type or name in (
        classes if isinstance(classes, list) else ()
    )


def _projector(config: Mapping[str, Any]) -> str:
    choice("projector_hidden_act", config.get("projector_hidden_act", "gelu"), ("gelu",))
    if "multimodal_projector_bias" in config and not flag(config, "multimodal_projector_bias"):
        raise refusal("multimodal_projector_bias is False, expected true")
    return "mlp2x_gelu"


def _select(config: Mapping[str, Any], tower: Mapping[str, Any]) -> str:
    usual = "full" if _is(config, ONEVISION) else "default"
    key = "vision_feature_select_strategy"
    chosen = choice(key, config.get(key, usual), tuple(_SELECT))
    if chosen == "default" and str(tower.get("model_type")).startswith("siglip"):
        raise refusal(f"{key} is 'default', which drops the first patch of SigLIP, expected 'full'")
    return _SELECT[chosen]


def _pictures(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    onevision = _is(config, ONEVISION)
    if not (onevision or _is(config, NEXT)):
        pads = not str(preprocessor.get("image_processor_type", "")).startswith("Siglip")
        padded = preprocessor.get("do_pad", pads)
        return {
            "image_aspect_ratio": "pad" if padded else None,
            "mm_patch_merge_type": "flat",
        }
    usual = _ONEVISION_TILES if onevision else _NEXT_TILES
    points = config.get("image_grid_pinpoints") or preprocessor.get("image_grid_pinpoints") or usual
    aspect = config.get("vision_aspect_ratio", "anyres_max_9") if onevision else "anyres"
    if onevision and not str(aspect).startswith("anyres_max_"):
        raise refusal(f"vision_aspect_ratio is {shown(aspect)}, expected anyres_max_ and a number")
    return {
        "image_aspect_ratio": aspect,
        "image_grid_pinpoints": _by_width(points),
        "mm_patch_merge_type": "spatial_unpad",
        "unpad_rounds": True,
    }


def _by_width(points: object) -> object:
    """Return layouts as (width, height), where transformers has (height, width)."""
    if isinstance(points, list) and all(isinstance(pair, list) for pair in points):
        return [pair[::-1] for pair in points]
    return points
