"""Specifications of tiny random models: their configurations and tensors, as published.

The values are small and random: the models say nothing, but every loader takes them.
"""

import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from llava_pack.checkpoint.expected import language_shapes, projector_shapes, tower_shapes
from tests.support.pickles import Stored

Tensors = dict[str, Stored]
WeightFormat = Literal["bin", "safetensors"]
TOWER_ID = "tiny/clip-tiny"
_TORCH_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyTower:
    """Sizes of a CLIP or SigLIP tower; the text side is as small as it can be."""

    width: int = 16
    inner: int = 24
    layers: int = 3
    heads: int = 2
    picture: int = 28
    patch: int = 14
    dtype: str = "F32"
    seed: int = 1
    siglip: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyLlava:
    """Sizes and variants of a LLaVA in the original layout.

    `projector` is `mm_projector_type`; `tiles` is LLaVA-1.6 (anyres, spatial_unpad,
    image_newline), with `qwen` LLaVA-OneVision's (anyres_max_9); `vision_inside` puts the tower's
    tensors into the checkpoint; `tied` leaves out the head, which is the embedding table.
    """

    hidden: int = 32
    inner: int = 48
    layers: int = 2
    heads: int = 4
    groups: int = 4
    vocabulary: int = 320
    projector: str = "mlp2x_gelu"
    mistral: bool = False
    qwen: bool = False
    tied: bool = False
    tiles: bool = False
    vision_inside: bool = False
    rotary_tables: bool = False
    dtype: str = "F16"
    weights: WeightFormat = "bin"
    shards: int = 2
    tower_id: str = TOWER_ID
    seed: int = 0
    tower: TinyTower = field(default_factory=TinyTower)
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Values of config.json to put in place of, or beside, the usual ones."""


def llava_config(spec: TinyLlava) -> dict[str, Any]:
    """Return config.json with the keys of the published ones."""
    config: dict[str, Any] = {
        "architectures": [f"Llava{language_of(spec).title()}ForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False,
        "hidden_act": "silu",
        "hidden_size": spec.hidden,
        "image_aspect_ratio": "pad",
        "initializer_range": 0.02,
        "intermediate_size": spec.inner,
        "max_position_embeddings": 2048,
        "mm_hidden_size": spec.tower.width,
        "mm_projector_type": spec.projector,
        "mm_resampler_type": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": spec.tower_id,
        "model_type": "llava_mistral" if spec.mistral else "llava",
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.layers,
        "num_key_value_heads": spec.groups,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": spec.tied,
        "torch_dtype": _TORCH_NAMES[spec.dtype],
        "transformers_version": "4.31.0",
        "tune_mm_mlp_adapter": False,
        "unfreeze_mm_vision_tower": spec.vision_inside,
        "use_cache": True,
        "use_mm_proj": True,
        "vocab_size": spec.vocabulary,
    }
    if spec.tiles:
        side = spec.tower.picture
        config |= {
            "image_aspect_ratio": "anyres",
            "image_crop_resolution": 224,
            "image_grid_pinpoints": [
                [side, 2 * side], [2 * side, side], [2 * side, 2 * side],
                [3 * side, side], [side, 3 * side],
            ],
            "image_split_resolution": 224,
            "mm_patch_merge_type": "spatial_unpad",
        }  # fmt: skip
    if spec.qwen:
        config |= _qwen_values(spec)
    return {**config, **spec.changes}


def language_of(spec: TinyLlava) -> str:
    """Return the language model as the class's name says it."""
    return "qwen" if spec.qwen else "mistral" if spec.mistral else "llama"


def _qwen_values(spec: TinyLlava) -> dict[str, Any]:
    """Return what LLaVA-NeXT's code writes for LLaVA-OneVision beside the usual keys."""
    values: dict[str, Any] = {
        "max_window_layers": spec.layers,
        "mm_spatial_pool_mode": "bilinear",
        "model_type": "llava_qwen",
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "use_sliding_window": False,
    }
    if spec.tiles:
        values |= {
            "image_aspect_ratio": "anyres_max_9",
            "image_grid_pinpoints": "(1x1),...,(6x6)",
            "image_crop_resolution": None,
            "image_split_resolution": None,
        }
    return values


def tower_config(spec: TinyTower) -> dict[str, Any]:
    """Return a CLIP or SigLIP repository's config.json."""
    return _siglip_config(spec) if spec.siglip else _clip_config(spec)


def _siglip_config(spec: TinyTower) -> dict[str, Any]:
    sizes = {
        "hidden_size": spec.width,
        "image_size": spec.picture,
        "intermediate_size": spec.inner,
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.layers,
        "patch_size": spec.patch,
    }
    return {
        "architectures": ["SiglipModel"],
        "initializer_factor": 1.0,
        "model_type": "siglip",
        "text_config": {"hidden_size": 8, "model_type": "siglip_text_model", "vocab_size": 16},
        "torch_dtype": "float32",
        "vision_config": {**sizes, "model_type": "siglip_vision_model"},
    }


def _clip_config(spec: TinyTower) -> dict[str, Any]:
    return {
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": 8,
        "text_config": {
            "hidden_size": 8,
            "intermediate_size": 8,
            "max_position_embeddings": 8,
            "model_type": "clip_text_model",
            "num_attention_heads": 1,
            "num_hidden_layers": 1,
            "projection_dim": 8,
            "vocab_size": 16,
        },
        "torch_dtype": "float32",
        "vision_config": {
            "hidden_act": "quick_gelu",
            "hidden_size": spec.width,
            "image_size": spec.picture,
            "intermediate_size": spec.inner,
            "model_type": "clip_vision_model",
            "num_attention_heads": spec.heads,
            "num_hidden_layers": spec.layers,
            "patch_size": spec.patch,
            "projection_dim": 8,
        },
    }


def preprocessor_config(spec: TinyTower) -> dict[str, Any]:
    """Return a CLIP or SigLIP repository's preprocessor_config.json."""
    if spec.siglip:
        return {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SiglipImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "SiglipProcessor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": spec.picture, "width": spec.picture},
        }
    return {
        "crop_size": spec.picture,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": spec.picture,
    }


def llava_tensors(spec: TinyLlava) -> Tensors:
    """Return the tensors of a checkpoint, in the order of a published one."""
    config = llava_config(spec)
    shapes = language_shapes(config) | projector_shapes(config)
    values = Values(spec.seed)
    tensors = {name: values.tensor(name, shape, spec.dtype) for name, shape in shapes.items()}
    if spec.rotary_tables:
        half = spec.hidden // spec.heads // 2
        for layer in range(spec.layers):
            name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
            tensors[name] = values.tensor(name, (half,), "F32")
    if spec.vision_inside:
        inside = _inside_shapes(spec.tower)
        for name, shape in inside.items():
            full = f"model.vision_tower.vision_tower.{name}"
            tensors[full] = values.tensor(full, shape, spec.dtype)
    return tensors


def tower_tensors(spec: TinyTower) -> Tensors:
    """Return the tensors of a tower's repository, text side and position ids included."""
    values = Values(spec.seed)
    shapes = _vision_shapes(spec) | (_head_shapes(spec) if spec.siglip else {}) | _text_shapes()
    tensors = {name: values.tensor(name, shape, spec.dtype) for name, shape in shapes.items()}
    patches = (spec.picture // spec.patch) ** 2 + (not spec.siglip)
    for side, count in (("vision", patches), ("text", 8)):
        data = struct.pack(f"<{count}q", *range(count))
        tensors[f"{side}_model.embeddings.position_ids"] = Stored("I64", (1, count), data)
    return tensors


def _vision_shapes(spec: TinyTower) -> dict[str, tuple[int, ...]]:
    return tower_shapes(tower_config(spec))


def _inside_shapes(spec: TinyTower) -> dict[str, tuple[int, ...]]:
    """Return what a checkpoint holds of its tower: LLaVA-NeXT deletes SigLIP's last layer."""
    return _vision_shapes(replace(spec, layers=spec.layers - 1) if spec.siglip else spec)


def _head_shapes(spec: TinyTower) -> dict[str, tuple[int, ...]]:
    """Return some of SigLIP's pooling head, which no LLaVA reads."""
    width = spec.width
    return {
        "vision_model.head.probe": (1, 1, width),
        "vision_model.head.attention.in_proj_weight": (3 * width, width),
        "vision_model.head.layernorm.weight": (width,),
    }


def _text_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.token_embedding.weight": (16, 8),
        "embeddings.position_embedding.weight": (8, 8),
        **_encoder_shapes(8, 8, 1),
        "final_layer_norm.weight": (8,),
        "final_layer_norm.bias": (8,),
    }
    return {
        **{f"text_model.{name}": shape for name, shape in shapes.items()},
        "logit_scale": (),
        "text_projection.weight": (8, 8),
        "visual_projection.weight": (8, 16),
    }


def _encoder_shapes(width: int, inner: int, layers: int) -> dict[str, tuple[int, ...]]:
    layer: dict[str, tuple[int, ...]] = {}
    for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
        layer[f"self_attn.{part}.weight"] = (width, width)
        layer[f"self_attn.{part}.bias"] = (width,)
    for norm in ("layer_norm1", "layer_norm2"):
        layer[f"{norm}.weight"] = layer[f"{norm}.bias"] = (width,)
    layer |= {
        "mlp.fc1.weight": (inner, width),
        "mlp.fc1.bias": (inner,),
        "mlp.fc2.weight": (width, inner),
        "mlp.fc2.bias": (width,),
    }
    return {
        f"encoder.layers.{number}.{name}": shape
        for number in range(layers)
        for name, shape in layer.items()
    }


class Values:
    """Random values by seed; norms are near one, the rest small."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str) -> Stored:
        count = 1
        for size in shape:
            count *= size
        centre = 1.0 if name.endswith("norm.weight") or ".layer_norm" in name else 0.0
        values = [self._random.gauss(centre, 0.1) for _ in range(count)]
        return Stored(dtype, shape, packed(values, dtype))


def packed(values: list[float], dtype: str) -> bytes:
    """Return floats as the bytes of a type."""
    if dtype == "BF16":
        wide = struct.pack(f"<{len(values)}f", *values)
        return b"".join(wide[start + 2 : start + 4] for start in range(0, len(wide), 4))
    letter = {"F16": "e", "F32": "f", "F64": "d"}[dtype]
    return struct.pack(f"<{len(values)}{letter}", *values)
