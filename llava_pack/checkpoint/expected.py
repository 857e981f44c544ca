"""Which tensors a configuration promises, and of which shape.

Source: transformers models/llama and models/mistral (names, shapes, defaults of the configuration);
haotian-liu/LLaVA llava/model/multimodal_projector/builder.py (projector types).
"""

from collections.abc import Mapping
from typing import Any

from llava_pack.checkpoint.kind import backbone
from llava_pack.checkpoint.network import is_lone_linear, newline, projector_linears, text_values
from llava_pack.checkpoint.values import size
from llava_pack.checkpoint.vision import tower_values

Shapes = dict[str, tuple[int, ...]]


def language_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the language model's tensors.

    Raises:
        CheckpointError: it is of a type that is not served, or a value is none.
    """
    text = text_values(config)
    hidden, vocabulary = text["hidden_size"], size(config, "vocab_size")
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    layer = _layer_shapes(text, backbone(config))
    for number in range(text["num_hidden_layers"]):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not text.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (vocabulary, hidden)
    return shapes


def _layer_shapes(text: Mapping[str, Any], language: str) -> Shapes:
    hidden, heads = text["hidden_size"], text["num_attention_heads"]
    head = text.get("head_dim", hidden // heads)
    groups = text["num_key_value_heads"]
    inner = text["intermediate_size"]
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
    biased = {"self_attn": text.get("attention_bias"), "mlp": text.get("mlp_bias")}
    biases = {
        name.replace(".weight", ".bias"): (shape[0],)
        for name, shape in shapes.items()
        if biased.get(name.split(".")[0]) or (language == "qwen2" and name in _QWEN2_BIASED)
    }
    return shapes | biases


_QWEN2_BIASED = tuple(f"self_attn.{name}_proj.weight" for name in "qkv")
"""Source: transformers models/qwen2/modeling_qwen2.py, Qwen2Attention."""


def projector_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the projector's tensors, and `image_newline` where tiles are joined with it.

    Raises:
        CheckpointError: the projector is of a type that LLaVA does not have.
    """
    hidden, width = size(config, "hidden_size"), size(config, "mm_hidden_size")
    shapes: Shapes = {}
    for number in range(projector_linears(config)):
        name = "model.mm_projector" + ("" if is_lone_linear(config) else f".{2 * number}")
        shapes[f"{name}.weight"] = (hidden, hidden if number else width)
        shapes[f"{name}.bias"] = (hidden,)
    if newline(config):
        shapes["model.image_newline"] = (hidden,)
    return shapes


def tower_shapes(config: Mapping[str, Any], layers: int | None = None) -> Shapes:
    """Return the vision tensors of a tower's repository, by its config.json.

    Args:
        config: of the tower.
        layers: that are run of it; None for all.

    Raises:
        CheckpointError: it is a tower of another kind, or a size is no number.
    """
    kind, values = tower_values(config)
    width, patch = values["hidden_size"], values["patch_size"]
    patches = (values["image_size"] // patch) ** 2
    shapes: Shapes = {"embeddings.class_embedding": (width,)} if kind == "clip" else {}
    shapes["embeddings.patch_embedding.weight"] = (width, 3, patch, patch)
    if kind == "siglip":
        shapes["embeddings.patch_embedding.bias"] = (width,)
    shapes["embeddings.position_embedding.weight"] = (patches + (kind == "clip"), width)
    for norm in (*(("pre_layrnorm",) if kind == "clip" else ()), "post_layernorm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    layer = _tower_layer(width, values["intermediate_size"])
    for number in range(values["num_hidden_layers"] if layers is None else layers):
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
