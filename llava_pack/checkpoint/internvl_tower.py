"""The tower of OpenGVLab's InternVL, as transformers' own class has it. Pure.

Source: OpenGVLab/InternVL internvl/model/internvl_chat (configuration_intern_vit.py, defaults;
modeling_intern_vit.py); transformers models/internvl (configuration and modeling: names, shapes).
"""

from collections.abc import Mapping
from typing import Any

from llava_pack.checkpoint.defects import shown
from llava_pack.checkpoint.expected import Shapes
from llava_pack.checkpoint.values import (
    ACTIVATIONS,
    MAX_LAYERS,
    choice,
    flag,
    number,
    refusal,
    size,
)

Config = Mapping[str, Any]
_SAME_EPS = 1e-6
"""Of the norm of queries and keys, which transformers' class has built in."""
_NORMS = ("layer_norm", "rms_norm")
_TOWER_DEFAULTS: Config = {
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_size": 3200,
    "image_size": 224,
    "initializer_factor": 0.1,
    "initializer_range": 0.02,
    "intermediate_size": 12800,
    "layer_norm_eps": 1e-6,
    "norm_type": "rms_norm",
    "num_attention_heads": 25,
    "num_hidden_layers": 48,
    "patch_size": 14,
    "qk_normalization": True,
    "qkv_bias": False,
}
"""Source: OpenGVLab/InternVL internvl/model/internvl_chat/configuration_intern_vit.py."""


def internvl_tower(vision: Config, config: Config) -> dict[str, Any]:
    """Return the tower's configuration; layers behind the features are not in it.

    Features of layer -1 are those of the last; with fewer layers, any other is the last, too.

    Args:
        vision: the tower's part of config.json.
        config: config.json.

    Raises:
        CheckpointError: transformers' own class has no such tower.
    """
    given = {**_TOWER_DEFAULTS, **vision}
    layers = size(given, "num_hidden_layers", most=MAX_LAYERS)
    side, patch = size(given, "image_size"), size(given, "patch_size")
    select = config.get("select_layer", -1)
    if type(select) is not int or not -layers <= select <= layers or select == 0:
        raise refusal(f"select_layer is {shown(select)}, expected one of the {layers} layers")
    normed, eps = flag(given, "qk_normalization"), number(given, "layer_norm_eps")
    if normed and eps != _SAME_EPS:
        raise refusal(f"layer_norm_eps is {eps} beside qk_normalization, expected {_SAME_EPS}")
    width, heads = size(given, "hidden_size"), size(given, "num_attention_heads")
    if width % heads:
        raise refusal(f"hidden_size of the tower is {width}, expected a multiple of {heads} heads")
    return {
        "architectures": ["InternVLVisionModel"],
        "attention_bias": flag(given, "qkv_bias"),
        "attention_dropout": given["attention_dropout"],
        "hidden_act": choice("hidden_act", given["hidden_act"], ACTIVATIONS),
        "hidden_dropout_prob": 0.0,
        "hidden_size": width,
        "image_size": [side, side],
        "initializer_range": given["initializer_range"],
        "intermediate_size": size(given, "intermediate_size"),
        "layer_norm_eps": eps,
        "layer_scale_init_value": given["initializer_factor"],
        "model_type": "internvl_vision",
        "norm_type": choice("norm_type", given["norm_type"], _NORMS),
        "num_attention_heads": heads,
        "num_channels": 3,
        "num_hidden_layers": select if select > 0 else layers + 1 + select,
        "patch_size": [patch, patch],
        "projection_dropout": given["dropout"],
        "use_absolute_position_embeddings": True,
        "use_mask_token": False,
        "use_mean_pooling": True,
        "use_qk_norm": normed,
    }


def internvl_tower_shapes(tower: Config) -> Shapes:
    """Return the tower's tensors by their names in the `-hf` layout."""
    width, inner, patch = tower["hidden_size"], tower["intermediate_size"], tower["patch_size"][0]
    positions = (tower["image_size"][0] // patch) ** 2 + 1
    embeddings = "vision_tower.embeddings"
    shapes: Shapes = {
        f"{embeddings}.cls_token": (1, 1, width),
        f"{embeddings}.patch_embeddings.projection.weight": (width, 3, patch, patch),
        f"{embeddings}.patch_embeddings.projection.bias": (width,),
        f"{embeddings}.position_embeddings": (1, positions, width),
    }
    linears = {f"attention.{name}_proj": (width, width) for name in "qkv"}
    linears |= {"attention.projection_layer": (width, width)}
    linears |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    layer: Shapes = {"lambda_1": (width,), "lambda_2": (width,)}
    for name, shape in linears.items():
        layer[f"{name}.weight"] = shape
        if tower["attention_bias"] or not name.endswith("_proj"):
            layer[f"{name}.bias"] = shape[:1]
    for norm in ("layernorm_before", "layernorm_after"):
        layer[f"{norm}.weight"] = (width,)
        if tower["norm_type"] == "layer_norm":
            layer[f"{norm}.bias"] = (width,)
    if tower["use_qk_norm"]:
        layer |= {"attention.q_norm.weight": (width,), "attention.k_norm.weight": (width,)}
    for layer_number in range(tower["num_hidden_layers"]):
        shapes |= {f"vision_tower.encoder.layer.{layer_number}.{n}": s for n, s in layer.items()}
    return shapes
