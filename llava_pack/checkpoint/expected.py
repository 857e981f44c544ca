"""Which tensors a configuration promises, and of which shape.

Source: transformers models/llama and models/mistral (names, shapes, defaults of the configuration);
haotian-liu/LLaVA llava/model/multimodal_projector/builder.py (projector types).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llava_pack.checkpoint.config import vision_part
from llava_pack.checkpoint.defects import shown
from llava_pack.checkpoint.kind import LANGUAGE_TYPES, backbone
from llava_pack.format.errors import CheckpointError

Shapes = dict[str, tuple[int, ...]]
_MLP = re.compile(r"mlp(\d+)x_gelu")
_MAX_LAYERS = 1000
_MAX_SIZE = 1 << 24


def language_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the language model's tensors; empty for a type whose shapes are not known here.

    Raises:
        CheckpointError: a size is missing or no number.
    """
    if backbone(config) not in LANGUAGE_TYPES:
        return {}
    hidden, vocabulary = size(config, "hidden_size"), size(config, "vocab_size")
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    layer = _layer_shapes(config, hidden)
    for number in range(min(size(config, "num_hidden_layers"), _MAX_LAYERS)):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (vocabulary, hidden)
    return shapes


def _layer_shapes(config: Mapping[str, Any], hidden: int) -> Shapes:
    heads = size(config, "num_attention_heads")
    head = size(config, "head_dim", hidden // max(heads, 1))
    groups = size(config, "num_key_value_heads", heads)
    inner = size(config, "intermediate_size")
    shapes: Shapes = {
        "self_attn.q_proj.weight": (heads * head, hidden),
        "self_attn.k_proj.weight": (groups * head, hidden),
        "self_attn.v_proj.weight": (groups * head, hidden),
        "self_attn.o_proj.weight": (hidden, heads * head),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    biased = {
        "self_attn": bool(config.get("attention_bias", False)),
        "mlp": bool(config.get("mlp_bias", False)),
    }
    biases = {
        name.replace(".weight", ".bias"): (shape[0],)
        for name, shape in shapes.items()
        if biased.get(name.split(".")[0], False)
    }
    return shapes | biases


def projector_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the projector's tensors, and `image_newline` where tiles are joined with it.

    Raises:
        CheckpointError: the projector is of a type that LLaVA does not have.
    """
    hidden, vision = size(config, "hidden_size"), size(config, "mm_hidden_size")
    shapes: Shapes = {}
    for layer, inner in _projector_layers(config, vision, hidden):
        shapes[f"model.mm_projector{layer}.weight"] = (hidden, inner)
        shapes[f"model.mm_projector{layer}.bias"] = (hidden,)
    if "unpad" in str(config.get("mm_patch_merge_type", "")):
        shapes["model.image_newline"] = (hidden,)
    return shapes


def _projector_layers(
    config: Mapping[str, Any], vision: int, hidden: int
) -> Iterator[tuple[str, int]]:
    """Yield the name of each linear layer and the width that it reads."""
    kind = config.get("mm_projector_type") or "linear"
    if kind == "linear":
        yield "", vision
        return
    if kind == "identity":
        return
    match = _MLP.fullmatch(str(kind))
    if match is None or not 1 <= int(match[1]) <= 16:
        raise CheckpointError(
            f"mm_projector_type is {shown(kind)}, expected 'linear' or 'mlp2x_gelu'",
            subject="config.json",
        )
    for number in range(int(match[1])):
        yield f".{2 * number}", vision if number == 0 else hidden


def tower_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the vision tensors of a CLIP repository, by its config.json.

    Raises:
        CheckpointError: a size is no number.

    Source: transformers models/clip/configuration_clip.py, CLIPVisionConfig (defaults).
    """
    vision = vision_part(config)
    width, inner = size(vision, "hidden_size", 768), size(vision, "intermediate_size", 3072)
    patch, channels = size(vision, "patch_size", 32), size(vision, "num_channels", 3)
    places = (size(vision, "image_size", 224) // patch) ** 2 + 1
    shapes: Shapes = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, channels, patch, patch),
        "embeddings.position_embedding.weight": (places, width),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    layer = _tower_layer(width, inner)
    for number in range(min(size(vision, "num_hidden_layers", 12), _MAX_LAYERS)):
        shapes |= {f"encoder.layers.{number}.{name}": shape for name, shape in layer.items()}
    return {f"vision_model.{name}": shape for name, shape in shapes.items()}


def _tower_layer(width: int, inner: int) -> Shapes:
    linears = {f"self_attn.{name}_proj": (width, width) for name in ("k", "v", "q", "out")}
    linears |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    shapes: Shapes = {}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for norm in ("layer_norm1", "layer_norm2"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return shapes


def size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Return a size from a configuration.

    Raises:
        CheckpointError: it is absent without a default, or no sensible number.
    """
    value = config.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 0 < value <= _MAX_SIZE:
        raise CheckpointError(
            f"{key} is {shown(value)}, expected a size between 1 and {_MAX_SIZE}",
            subject="config.json",
        )
    return value
