"""The JSON files of a transformers-native LLaVA folder, from the original ones. Pure.

Source: transformers models/llava and models/llava_next (configuration, processor and image
processor arguments); models/clip/configuration_clip.py (defaults of the tower).
"""

from collections.abc import Mapping
from typing import Any

from llava_pack.checkpoint import tiling
from llava_pack.checkpoint.config import vision_part
from llava_pack.checkpoint.kind import LANGUAGE_TYPES, backbone, has_tiles
from llava_pack.checkpoint.quantized import quantized_ahead
from llava_pack.format.errors import CheckpointError

IMAGE_TOKEN = "<image>"  # noqa: S105 - a word of the vocabulary
PAD_TOKEN = "<pad>"  # noqa: S105 - a word of the vocabulary
PICTURE_ENDS = "mm_use_im_start_end"
"""Kept in config.json where it is true; transformers passes it over, the chat template obeys it."""
SKIPPED = ("model.vision_tower", "model.multi_modal_projector", "lm_head")
"""Modules that are never quantized: naming any of them drops transformers' own default."""

_TEXT_KEYS = (
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
)
_VISION_DEFAULTS: Mapping[str, Any] = {
    "attention_dropout": 0.0,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "image_size": 224,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_hidden_layers": 12,
    "patch_size": 32,
    "projection_dim": 512,
}
_SELECT = {"patch": "default", "cls_patch": "full"}
_ASPECTS = ("pad", "square", "anyres", None)
_MERGE = "spatial_unpad"
_NF4 = {
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
}
_INT8 = {
    "load_in_4bit": False,
    "load_in_8bit": True,
    "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False,
    "llm_int8_threshold": 6.0,
}


def native_config(
    config: Mapping[str, Any],
    tower_config: Mapping[str, Any],
    *,
    rows: int,
    tokens: Mapping[str, int],
    precision: str | None = None,
) -> dict[str, Any]:
    """Return config.json of the native folder.

    Args:
        config: the original checkpoint's.
        tower_config: its tower's.
        rows: of the embedding table, as it is written.
        tokens: ids of `<image>` and `<pad>`.
        precision: `nf4` or `int8` where the linears are written quantized.

    Raises:
        CheckpointError: the checkpoint has a part that transformers' LLaVA has not.
    """
    check_native(config)
    tiles = has_tiles(config)
    vision = vision_config(tower_config)
    whole: dict[str, Any] = {
        "architectures": [f"Llava{'Next' if tiles else ''}ForConditionalGeneration"],
        "dtype": str(config.get("torch_dtype") or config.get("dtype") or "float16"),
        "ignore_index": -100,
        "image_seq_length": (vision["image_size"] // vision["patch_size"]) ** 2,
        "image_token_index": tokens[IMAGE_TOKEN],
        "model_type": "llava_next" if tiles else "llava",
        "multimodal_projector_bias": True,
        "pad_token_id": tokens[PAD_TOKEN],
        "projector_hidden_act": "gelu",
        "text_config": _text_config(config, rows, tokens[PAD_TOKEN]),
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "vision_config": vision,
        "vision_feature_layer": int(config.get("mm_vision_select_layer", -2)),
        "vision_feature_select_strategy": _select(config),
    }
    if tiles:
        whole["image_grid_pinpoints"] = pinpoints(config, vision["image_size"])
    if config.get(PICTURE_ENDS, False):
        whole[PICTURE_ENDS] = True
    if precision is not None:
        whole["dtype"] = "bfloat16" if whole["dtype"] == "bfloat16" else "float16"
        skip = {"llm_int8_skip_modules": list(SKIPPED), "quant_method": "bitsandbytes"}
        nf4 = {**_NF4, "bnb_4bit_compute_dtype": whole["dtype"]}
        whole["quantization_config"] = {**(nf4 if precision == "nf4" else _INT8), **skip}
    return dict(sorted(whole.items()))


def vision_config(tower_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tower's part of config.json: what a CLIP configuration says of its vision side."""
    given = vision_part(tower_config)
    values = {
        key: default if given.get(key) is None else given[key]
        for key, default in _VISION_DEFAULTS.items()
    }
    return {**values, "model_type": "clip_vision_model"}


def pinpoints(config: Mapping[str, Any], side: int) -> list[list[int]]:
    """Return the tile layouts as transformers reads them: (height, width), where LLaVA has (w, h).

    >>> pinpoints({"image_grid_pinpoints": "[(336, 672)]"}, 336)
    [[672, 336]]
    """
    layouts = tiling.pinpoints(config.get("image_grid_pinpoints"), side)
    return [[height, width] for width, height in layouts]


def image_processor(
    config: Mapping[str, Any], tower_config: Mapping[str, Any], preprocessor: Mapping[str, Any]
) -> dict[str, Any]:
    """Return preprocessor_config.json: pad with the mean colour, or tiles, then as CLIP."""
    tiles = has_tiles(config)
    side = vision_config(tower_config)["image_size"]
    size, crop = preprocessor.get("size", side), preprocessor.get("crop_size", side)
    kind = "LlavaNext" if tiles else "Llava"
    whole: dict[str, Any] = {
        "crop_size": {"height": crop, "width": crop} if isinstance(crop, int) else crop,
        "do_center_crop": bool(preprocessor.get("do_center_crop", True)),
        "do_convert_rgb": True,
        "do_normalize": bool(preprocessor.get("do_normalize", True)),
        "do_pad": tiles or config.get("image_aspect_ratio") == "pad",
        "do_rescale": True,
        "do_resize": bool(preprocessor.get("do_resize", True)),
        "image_mean": preprocessor.get("image_mean"),
        "image_processor_type": f"{kind}ImageProcessor",
        "image_std": preprocessor.get("image_std"),
        "processor_class": f"{kind}Processor",
        "resample": preprocessor.get("resample", 3),
        "rescale_factor": preprocessor.get("rescale_factor", 1 / 255),
        "size": {"shortest_edge": size} if isinstance(size, int) else size,
    }
    if tiles:
        whole["image_grid_pinpoints"] = pinpoints(config, side)
    return dict(sorted(whole.items()))


def processor(config: Mapping[str, Any], tower_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return processor_config.json: how many tokens a picture takes."""
    return {
        "image_token": IMAGE_TOKEN,
        "num_additional_image_tokens": 1,
        "patch_size": vision_config(tower_config)["patch_size"],
        "processor_class": f"Llava{'Next' if has_tiles(config) else ''}Processor",
        "vision_feature_select_strategy": _select(config),
    }


def generation_config(
    config: Mapping[str, Any], published: Mapping[str, Any], pad: int
) -> dict[str, Any]:
    """Return generation_config.json: ends of an answer; greedy unless somebody asks otherwise."""
    values = {
        key: published[key] if published.get(key) is not None else config.get(key)
        for key in ("bos_token_id", "eos_token_id")
    }
    return {
        **{key: value for key, value in values.items() if value is not None},
        "pad_token_id": pad,
    }


def check_native(config: Mapping[str, Any]) -> None:
    """Check that transformers' LLaVA has a place for every part of a checkpoint.

    Raises:
        CheckpointError: it has not; the message names the part.
    """
    if quantized_ahead(config) is not None:
        raise CheckpointError(
            "the checkpoint was quantized ahead of time, so its linears have no other form",
            subject="config.json",
            hint="build it without --format hf and --quantize, or use the unquantized checkpoint",
        )
    language = backbone(config)
    projector = config.get("mm_projector_type") or "linear"
    hint = "build it without --format hf and --quantize: llava-pack's own engine reads it"
    if language not in LANGUAGE_TYPES:
        known = ", ".join(LANGUAGE_TYPES)
        raise CheckpointError(
            f"the language model has type {language!r}, expected one of {known}",
            subject="config.json",
            hint=hint,
        )
    if projector != "mlp2x_gelu":
        raise CheckpointError(
            f"mm_projector_type is {projector!r}, transformers' LLaVA supports only 'mlp2x_gelu'",
            subject="config.json",
            hint=hint,
        )
    _check_pictures(config, hint)


def _check_pictures(config: Mapping[str, Any], hint: str) -> None:
    """Refuse pictures that transformers' LLaVA would prepare in another way."""
    aspect, merge = config.get("image_aspect_ratio"), config.get("mm_patch_merge_type")
    if aspect not in _ASPECTS:
        known = ", ".join(str(name) for name in _ASPECTS)
        raise CheckpointError(
            f"image_aspect_ratio is {aspect!r}, expected one of: {known}", subject="config.json"
        )
    if has_tiles(config) and (merge != _MERGE or _select(config) != "default"):
        raise CheckpointError(
            f"tiles are joined as {merge!r} of {config.get('mm_vision_select_feature', 'patch')!r}"
            f" features, transformers' LLaVA joins them as {_MERGE!r} of 'patch' features",
            subject="config.json",
            hint=hint,
        )


def _text_config(config: Mapping[str, Any], rows: int, pad: int) -> dict[str, Any]:
    language = backbone(config)
    given = {key: config[key] for key in _TEXT_KEYS if key in config}
    kept = {key: value for key, value in given.items() if value is not None}
    if language == "mistral" and "sliding_window" in given:
        kept["sliding_window"] = given["sliding_window"]  # absent means 4096, null means none
    else:
        kept.pop("sliding_window", None)
    name = f"{language.title()}ForCausalLM"
    extra = {"architectures": [name], "model_type": language}
    return dict(sorted({**kept, **extra, "pad_token_id": pad, "vocab_size": rows}.items()))


def _select(config: Mapping[str, Any]) -> str:
    feature = config.get("mm_vision_select_feature", "patch")
    if feature not in _SELECT:
        raise CheckpointError(
            f"mm_vision_select_feature is {feature!r}, expected one of {', '.join(_SELECT)}",
            subject="config.json",
        )
    return _SELECT[feature]
