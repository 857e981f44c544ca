"""What the configurations say of the network: language model, projector, tower. Pure.

Whatever the engine builds, it builds from these values, and they are read here alone: what a
laptop accepts is what a server loads.

Source: haotian-liu/LLaVA llava/model/multimodal_projector/builder.py (projector kinds),
multimodal_encoder/clip_encoder.py (which features are taken); LLaVA-VL/LLaVA-NeXT
multimodal_encoder/siglip_encoder.py (SigLIP has no class token, and its last layer is dropped).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava_pack.checkpoint.defects import shown
from llava_pack.checkpoint.kind import LANGUAGE_TYPES, backbone, has_tiles
from llava_pack.checkpoint.values import (
    ACTIVATIONS,
    MAX_LAYERS,
    choice,
    flag,
    number,
    refusal,
    size,
)
from llava_pack.checkpoint.vision import TowerRules, tower_rules

NAMED_TOWER = "use the tower that mm_vision_tower names"
_MLP = re.compile(r"mlp(\d{1,2})x_gelu")
_MAX_LINEARS = 16
_OTHERS = "take a LLaVA over one of those, for example the recipe llava-v1.5-7b"
_ROTARY: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}
"""How positions are scaled, and the numbers that each way needs."""
ROTARY_NUMBERS = (
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "high_freq_factor",
    "low_freq_factor",
    "mscale",
    "mscale_all_dim",
    "rope_theta",
)
"""What any way can have beside them."""
_ROTARY_KEYS = (
    *ROTARY_NUMBERS,
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_type",
    "truncate",
    "type",
)
_ROTARY_NOTES = ("finetuned",)
"""What nothing computes with. Source: NousResearch Yarn-Llama-2, configuration_llama.py."""
_GROUPS = {"mistral": 8, "qwen2": 32}
"""Key-value heads where a configuration names none; others have one for each head. Source:
transformers models/mistral and models/qwen2 configuration."""
_NEEDED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_SIZES = (
    *_NEEDED,
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "sliding_window",
    "max_window_layers",
)
_NUMBERS = ("rms_norm_eps", "rope_theta")
_FLAGS = ("attention_bias", "mlp_bias", "tie_word_embeddings", "use_sliding_window")
_IDS = ("bos_token_id", "eos_token_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What the engine builds.

    Attributes:
        language: type of the language model.
        text: values of its configuration, in transformers' keys; what is absent has its default.
        tower: what pictures go through first.
        linears: of the projector; 0 where features go in as they are.
        lone_linear: the projector is one layer without a number.
        newline: whether rows of features end with a parameter of their own.
    """

    language: str
    text: Mapping[str, Any]
    tower: TowerRules
    linears: int
    lone_linear: bool
    newline: bool

    @property
    def head_width(self) -> int:
        """Numbers of a key, and of a value, in each head."""
        return int(
            self.text.get("head_dim")
            or self.text["hidden_size"] // self.text["num_attention_heads"]
        )


def network(config: Mapping[str, Any], tower_config: Mapping[str, Any]) -> Network:
    """Return the network of a checkpoint.

    Args:
        config: its config.json in the original keys.
        tower_config: config.json of its tower, or of the converted checkpoint that includes it.

    Raises:
        CheckpointError: a value is missing, unknown or contradicts another; the message names it.
    """
    text, linears = text_values(config), projector_linears(config)
    tower = tower_rules(config, tower_config)
    if config.get("mm_hidden_size") != tower.width:
        raise refusal(
            f"mm_hidden_size is {shown(config.get('mm_hidden_size'))}, the tower is {tower.width} "
            "wide",
            hint=NAMED_TOWER,
        )
    if linears == 0 and tower.width != text["hidden_size"]:
        raise refusal(
            f"mm_projector_type is 'identity', but the tower is {tower.width} wide and the "
            f"language model {text['hidden_size']}"
        )
    if config.get("mm_resampler_type"):
        raise refusal(
            f"mm_resampler_type is {shown(config['mm_resampler_type'])}, expected null",
            hint="take a LLaVA whose features go to the projector as they are",
        )
    return Network(
        language=backbone(config),
        text=text,
        tower=tower,
        linears=linears,
        lone_linear=is_lone_linear(config),
        newline=newline(config),
    )


def text_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the language model's configuration.

    Raises:
        CheckpointError: it is of a type that is not served, or a value is none.
    """
    choice("the language model", backbone(config), LANGUAGE_TYPES, hint=_OTHERS)
    given = {key: value for key, value in config.items() if value is not None}
    for key in _NEEDED:
        size(config, key)
    size(config, "num_hidden_layers", most=MAX_LAYERS)
    values: dict[str, Any] = {key: size(given, key) for key in _SIZES if key in given}
    values |= {key: number(given, key) for key in _NUMBERS if key in given}
    values |= {key: flag(given, key) for key in _FLAGS if key in given}
    values |= {key: _ids(key, given[key]) for key in _IDS if key in given}
    values |= rotary(given)
    if "hidden_act" in given:
        values["hidden_act"] = choice("hidden_act", given["hidden_act"], ACTIVATIONS)
    usual = _GROUPS.get(backbone(config), values["num_attention_heads"])
    values.setdefault("num_key_value_heads", usual)
    _check_heads(values)
    if backbone(config) == "mistral" and "sliding_window" in config:
        values["sliding_window"] = config["sliding_window"]  # null means none, absent 4096
    return values


def _check_heads(values: Mapping[str, Any]) -> None:
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    groups = values["num_key_value_heads"]
    head = values.get("head_dim", hidden // heads)
    if ("head_dim" not in values and hidden % heads) or heads % groups or head % 2:
        raise refusal(
            f"hidden_size {hidden}, {heads} attention heads and {groups} key-value heads: expected "
            "an even number for each head, and each key-value head for the same number of heads"
        )


def projector_linears(config: Mapping[str, Any]) -> int:
    """Return how many linear layers the projector has.

    >>> projector_linears({"mm_projector_type": "mlp2x_gelu"}), projector_linears({})
    (2, 1)

    Raises:
        CheckpointError: it is of a type that LLaVA does not have.
    """
    kind = config.get("mm_projector_type")
    if is_lone_linear(config) or kind == "identity":
        return int(kind != "identity")
    match = _MLP.fullmatch(str(kind))
    if match is None or not 1 <= int(match[1]) <= _MAX_LINEARS:
        raise refusal(
            f"mm_projector_type is {shown(kind)}, expected linear, mlp2x_gelu, or identity",
            hint="a projector of another kind has no place in LLaVA's code: take a model that was "
            "trained with one of those",
        )
    return int(match[1])


def is_lone_linear(config: Mapping[str, Any]) -> bool:
    """Return whether the projector is one layer that its name gives no number, as LLaVA's first."""
    return config.get("mm_projector_type") in (None, "linear")


def newline(config: Mapping[str, Any]) -> bool:
    """Return whether rows of features of tiles end with `image_newline`."""
    return has_tiles(config) and config.get("mm_patch_merge_type") == "spatial_unpad"


def _ids(key: str, value: object) -> int | list[int]:
    ids: list[Any] = value if isinstance(value, list) else [value]
    if not ids or any(type(one) is not int or one < 0 for one in ids):
        raise refusal(f"{key} is {shown(value)}, expected an id of the vocabulary")
    return ids if isinstance(value, list) and key == "eos_token_id" else int(ids[0])


def rotary(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return how positions are scaled, in whichever key it is told.

    Source: transformers modeling_rope_utils.py (types and their keys; `type` is the older name).

    Raises:
        CheckpointError: it is of a type or has a key that is not known, or a value is none.
    """
    kept: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        rules = config.get(key)
        if rules is None:
            continue
        if not isinstance(rules, Mapping):
            raise refusal(f"{key} is {shown(rules)}, expected an object or null")
        kind = choice(f"{key} type", rules.get("rope_type", rules.get("type", "default")), _ROTARY)
        for needed in _ROTARY[kind]:
            number(rules, needed)
        kept[key] = {
            name: value
            for name, value in rules.items()
            if value is not None and name not in _ROTARY_NOTES
        }
        _check_rotary(key, kept[key])
    return kept


def _check_rotary(key: str, rules: Mapping[str, Any]) -> None:
    strange = sorted(rules.keys() - {*_ROTARY_KEYS})
    if strange:
        raise refusal(f"{key} has {shown(strange[0])}, expected: {', '.join(_ROTARY_KEYS)}")
    for name in ROTARY_NUMBERS:
        if name in rules:
            number(rules, name)
    if "original_max_position_embeddings" in rules:
        size(rules, "original_max_position_embeddings")
    if "truncate" in rules:
        flag(rules, "truncate")
    if rules.get("partial_rotary_factor", 1) != 1:
        given = shown(rules["partial_rotary_factor"])
        raise refusal(f"{key} has partial_rotary_factor {given}, expected 1")
    if rules.get("rope_theta", 2) <= 1:
        raise refusal(f"{key} has rope_theta {rules['rope_theta']}, expected more than 1")
