"""The JSON files of a transformers-native LLaVA folder, from the original ones. Pure.

Source: transformers models/llava, models/llava_next and models/llava_onevision (configuration,
processor and image processor arguments); models/clip/configuration_clip.py (defaults).
"""

from collections.abc import Mapping
from typing import Any

from llava_pack.checkpoint.config import vision_part
from llava_pack.convert.native_form import NativeForm

IMAGE_TOKEN = "<image>"  # noqa: S105 - a word of the vocabulary
PAD_TOKEN = "<pad>"  # noqa: S105 - a word of the vocabulary
VIDEO_TOKEN = "<video>"  # noqa: S105 - a word of the vocabulary
PICTURE_ENDS = "mm_use_im_start_end"
"""Kept in config.json where it is true; transformers passes it over, the chat template obeys it."""
SKIPPED = (
    "model.vision_tower",
    "model.multi_modal_projector",
    "vision_tower",
    "multi_modal_projector",
    "lm_head",
)
"""Modules that are never quantized: naming any of them drops transformers' own default.

Transformers looks them up as `model.vision_tower`, vLLM as `vision_tower`; each passes over what it
does not have. Source: transformers quantizers/quantizers_utils.py should_convert_module; vLLM
quantization/bitsandbytes.py is_layer_skipped_bnb.
"""

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
    "max_window_layers",
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
)
_VISION_KEPT: Mapping[str, Any] = {
    "attention_dropout": 0.0,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "projection_dim": 512,
}
"""What a CLIP configuration says of its vision side beside what decides the network."""
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
    form: NativeForm,
    *,
    rows: int,
    tokens: Mapping[str, int],
    precision: str | None = None,
) -> dict[str, Any]:
    """Return config.json of the native folder.

    Args:
        config: the original checkpoint's.
        tower_config: its tower's.
        form: which class it is written for.
        rows: of the embedding table, as it is written.
        tokens: ids of `<image>` and `<pad>`, and of `<video>` where the class has one.
        precision: `nf4` or `int8` where the linears are written quantized.
    """
    whole: dict[str, Any] = {
        "architectures": [form.architecture],
        "dtype": str(config.get("torch_dtype") or config.get("dtype") or "float16"),
        "ignore_index": -100,
        "image_token_index": tokens[IMAGE_TOKEN],
        "model_type": form.model_type,
        "multimodal_projector_bias": True,
        "pad_token_id": tokens[PAD_TOKEN],
        "projector_hidden_act": "gelu",
        "text_config": _text_config(config, form, rows, tokens[PAD_TOKEN]),
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "vision_config": vision_config(tower_config, form),
        "vision_feature_layer": form.feature_layer,
        "vision_feature_select_strategy": form.strategy,
    }
    if form.most_tiles:
        whole["vision_aspect_ratio"] = f"anyres_max_{form.most_tiles}"
        whole["video_token_index"] = tokens[VIDEO_TOKEN]
    else:
        whole["image_seq_length"] = form.side_patches**2
    if form.layouts:
        whole["image_grid_pinpoints"] = form.layouts
    if config.get(PICTURE_ENDS, False):
        whole[PICTURE_ENDS] = True
    if precision is not None:
        whole["dtype"] = "bfloat16" if whole["dtype"] == "bfloat16" else "float16"
        skip = {"llm_int8_skip_modules": list(SKIPPED), "quant_method": "bitsandbytes"}
        nf4 = {**_NF4, "bnb_4bit_compute_dtype": whole["dtype"]}
        whole["quantization_config"] = {**(nf4 if precision == "nf4" else _INT8), **skip}
    return dict(sorted(whole.items()))


def vision_config(tower_config: Mapping[str, Any], form: NativeForm) -> dict[str, Any]:
    """Return the tower's part of config.json."""
    if form.network.tower.kind != "clip":
        return dict(sorted(form.tower.items()))
    given = vision_part(tower_config)
    kept = {
        key: default if given.get(key) is None else given[key]
        for key, default in _VISION_KEPT.items()
    }
    return dict(sorted({**kept, **form.tower}.items()))


def image_processor(form: NativeForm) -> dict[str, Any]:
    """Return preprocessor_config.json: pad with the mean colour, or tiles, then as the tower."""
    rules = form.pictures
    size = {"height": rules.height, "width": rules.width}
    edge = rules.shortest_edge
    whole: dict[str, Any] = {
        "crop_size": size,  # that of tiles, too, where nothing is cropped
        "do_center_crop": edge is not None,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": rules.tiling is not None or rules.pad,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(rules.mean),
        "image_processor_type": f"{form.stem}ImageProcessor",
        "image_std": list(rules.std),
        "processor_class": f"{form.stem}Processor",
        "resample": rules.resample,
        "rescale_factor": rules.factor,
        "size": size if edge is None else {"shortest_edge": edge},
    }
    if form.layouts:
        whole["image_grid_pinpoints"] = form.layouts
    return dict(sorted(whole.items()))


def processor(form: NativeForm) -> dict[str, Any]:
    """Return processor_config.json: how many tokens a picture takes."""
    whole: dict[str, Any] = {
        "image_token": IMAGE_TOKEN,
        "processor_class": f"{form.stem}Processor",
        "vision_feature_select_strategy": form.strategy,
    }
    if form.most_tiles:
        return {
            **whole,
            "num_image_tokens": form.side_patches**2 + form.class_tokens,
            "video_token": VIDEO_TOKEN,
            "vision_aspect_ratio": f"anyres_max_{form.most_tiles}",
        }
    return {
        **whole,
        "num_additional_image_tokens": form.class_tokens,
        "patch_size": form.tower["patch_size"],
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


def _text_config(
    config: Mapping[str, Any], form: NativeForm, rows: int, pad: int
) -> dict[str, Any]:
    language = form.network.language
    given = {key: config[key] for key in _TEXT_KEYS if key in config}
    kept = {key: value for key, value in given.items() if value is not None}
    if language == "mistral" and "sliding_window" in given:
        kept["sliding_window"] = given["sliding_window"]  # absent means 4096, null means none
    elif language == "llama":
        kept.pop("sliding_window", None)
    name = f"{language.title()}ForCausalLM"
    extra = {"architectures": [name], "model_type": language}
    return dict(sorted({**kept, **extra, "pad_token_id": pad, "vocab_size": rows}.items()))
