"""What an adapter changes, and by how much. Pure.

Source: peft tuners/lora/model.py merge_and_unload, tuners/lora/layer.py get_delta_weight (scale,
patterns); haotian-liu/LLaVA llava/model/builder.py (names of what was trained beside it).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llava_pack.checkpoint.keymap import plain_name, projector_name
from llava_pack.format.errors import CheckpointError

Half = Literal["A", "B"]
_ADAPTER = re.compile(r"(.+)\.lora_(A|B)(?:\.default)?\.weight")
_PROJECTOR = ("mm_projector.", "model.mm_projector.", "multi_modal_projector.", "linear_")
_UNKNOWN = ("use_dora", "fan_in_fan_out", "megatron_config", "layer_replication")
"""Settings of peft that change the maths in ways LLaVA's training does not use."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What adapter_config.json says of the maths.

    Attributes:
        rank: columns of A and rows of B, unless a pattern names another.
        alpha: numerator of the scale.
        rooted: the scale is alpha divided by the root of the rank.
    """

    rank: int
    alpha: float
    rooted: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def scale(self, module: str) -> float:
        """Return the factor of B · A for a module, `model.layers.0.mlp.up_proj`.

        >>> Adapter(rank=4, alpha=8, rooted=False, ranks={}, alphas={}).scale("x")
        2.0
        """
        rank = float(_by_pattern(module, self.ranks, self.rank))
        alpha = float(_by_pattern(module, self.alphas, self.alpha))
        return alpha / (math.sqrt(rank) if self.rooted else rank)


def read_adapter(config: Mapping[str, Any]) -> Adapter:
    """Return the settings of an adapter.

    Raises:
        CheckpointError: it is of a kind that LLaVA's training does not make.
    """
    strange = [key for key in _UNKNOWN if config.get(key)]
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if strange or config.get("bias", "none") != "none":
        raise CheckpointError(
            f"{', '.join(strange) or 'bias'} is not supported, expected a plain LoRA",
            subject="adapter_config.json",
        )
    if type(rank) is not int or rank < 1 or not isinstance(alpha, (int, float)):
        raise CheckpointError(
            f"r is {rank!r} and lora_alpha {alpha!r}, expected numbers",
            subject="adapter_config.json",
        )
    return Adapter(
        rank=rank,
        alpha=float(alpha),
        rooted=bool(config.get("use_rslora", False)),
        ranks=dict(config.get("rank_pattern") or {}),
        alphas=dict(config.get("alpha_pattern") or {}),
    )


def changed_tensor(name: str) -> tuple[str, Half] | None:
    """Return the base tensor that a half of an adapter changes, and which half it is.

    >>> changed_tensor("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight")
    ('model.layers.0.mlp.up_proj.weight', 'A')
    >>> changed_tensor("model.mm_projector.0.weight") is None
    True
    """
    match = _ADAPTER.fullmatch(name)
    if match is None:
        return None
    return f"{plain_name(match[1])}.weight", "A" if match[2] == "A" else "B"


def trained_name(name: str) -> str:
    """Return the original name of a tensor that was trained beside an adapter, or alone.

    >>> trained_name("base_model.model.model.mm_projector.0.weight")
    'model.mm_projector.0.weight'
    """
    plain = plain_name(name)
    return projector_name(plain) if plain.startswith(_PROJECTOR) else plain


def _by_pattern(module: str, patterns: Mapping[str, Any], default: Any) -> Any:
    """Return the value of the first pattern that names the module or its end."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default
