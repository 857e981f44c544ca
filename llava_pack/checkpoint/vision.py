"""A vision tower by the configurations: CLIP or SigLIP, and which of its features are taken. Pure.

Source: haotian-liu/LLaVA llava/model/multimodal_encoder/clip_encoder.py; LLaVA-VL/LLaVA-NeXT
multimodal_encoder/siglip_encoder.py (no class token, and the last layer is dropped).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llava_pack.checkpoint.config import vision_part, vision_tower_id
from llava_pack.checkpoint.defects import shown
from llava_pack.checkpoint.kind import TOWER_TYPES
from llava_pack.checkpoint.values import ACTIVATIONS, MAX_LAYERS, choice, number, refusal, size

TowerKind = Literal["clip", "siglip"]
_SELECT = ("patch", "cls_patch")
_SELECTED = -2
"""Source: haotian-liu/LLaVA llava/train/train.py as it is used; LLaVA-NeXT siglip_encoder.py, which
deletes the last layer whatever the configuration says."""
# Source: transformers models/clip and models/siglip configuration, the defaults of the vision part.
_TOWERS: Mapping[TowerKind, Mapping[str, Any]] = {
    "clip": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 32,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
    "siglip": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerRules:
    """A vision tower, as far as its features are taken.

    Attributes:
        kind: whose layers it has.
        values: of its configuration, in transformers' keys.
        layers: that are run; what comes after the features is left out.
        drops_class: the class token, which CLIP puts before the patches, is dropped.
    """

    kind: TowerKind
    values: Mapping[str, Any]
    layers: int
    drops_class: bool

    @property
    def width(self) -> int:
        """Numbers of a feature."""
        return int(self.values["hidden_size"])

    @property
    def image_size(self) -> int:
        """Pixels along a picture."""
        return int(self.values["image_size"])

    @property
    def patches(self) -> int:
        """Patches along a picture."""
        return self.image_size // int(self.values["patch_size"])

    @property
    def extra(self) -> int:
        """Features of a picture beside its patches."""
        return int(self.kind == "clip" and not self.drops_class)

    @property
    def features(self) -> int:
        """Features of a picture."""
        return self.patches**2 + self.extra


def tower_rules(config: Mapping[str, Any], tower_config: Mapping[str, Any]) -> TowerRules:
    """Return what of a tower is run, and which of its features are taken.

    Raises:
        CheckpointError: a value is missing, unknown or contradicts another.
    """
    kind, values = tower_values(tower_config)
    select = choice(
        "mm_vision_select_feature", config.get("mm_vision_select_feature") or "patch", _SELECT
    )
    layers = _layers(_selected(config, kind), values["num_hidden_layers"])
    drops = kind == "clip" and select == "patch"
    return TowerRules(kind=kind, values=values, layers=layers, drops_class=drops)


def tower_values(tower_config: Mapping[str, Any]) -> tuple[TowerKind, dict[str, Any]]:
    """Return whose layers a tower has, and the values of its configuration.

    Raises:
        CheckpointError: it is a tower of another kind, or a value is none.
    """
    given, kind = vision_part(tower_config), tower_kind(tower_config)
    values = {
        key: default if given.get(key) is None else given[key]
        for key, default in _TOWERS[kind].items()
    }
    size(values, "num_hidden_layers", most=MAX_LAYERS)
    for key, default in _TOWERS[kind].items():
        if isinstance(default, str):
            choice(key, values[key], ACTIVATIONS)
        elif isinstance(default, float):
            values[key] = number(values, key)
        else:
            size(values, key)
    if size(given, "num_channels", 3) != 3:
        raise refusal(f"num_channels is {given['num_channels']}, expected 3")
    heads, width = values["num_attention_heads"], values["hidden_size"]
    if width % heads or values["image_size"] < values["patch_size"]:
        raise refusal(
            f"the tower is {width} wide with {heads} heads, and sees {values['image_size']} pixels "
            f"in patches of {values['patch_size']}: they do not fit together"
        )
    return kind, values


def tower_kind(tower_config: Mapping[str, Any]) -> TowerKind:
    """Return whose layers a tower has; CLIP's where its configuration does not say.

    Raises:
        CheckpointError: it is a tower of another kind.
    """
    given = vision_part(tower_config)
    model_type = given.get("model_type") or tower_config.get("model_type") or "clip"
    if model_type not in TOWER_TYPES:
        raise refusal(
            f"the vision tower is {shown(model_type)}, expected one of: {', '.join(TOWER_TYPES)}",
            hint="take a LLaVA with a CLIP or a SigLIP tower",
        )
    return "siglip" if str(model_type).startswith("siglip") else "clip"


def _layers(select: object, layers: int) -> int:
    """Return how many layers are run for the hidden state that is selected."""
    if type(select) is not int or not -layers <= select <= layers or select == 0:
        raise refusal(
            f"mm_vision_select_layer is {shown(select)}, expected a layer from -{layers} to "
            f"{layers} of the tower, for example -2"
        )
    return select if select > 0 else layers + 1 + select


def _selected(config: Mapping[str, Any], kind: TowerKind) -> object:
    """Return the hidden state that is taken: of an original's SigLIP always the one before last."""
    if kind == "siglip" and vision_tower_id(config) is not None:
        return _SELECTED
    return config.get("mm_vision_select_layer", _SELECTED)
