"""What an adapter changes, and by how much. Pure: tensors are taken as they are, of any library.

Source: peft tuners/lora/model.py merge_and_unload, tuners/lora/layer.py get_delta_weight (scale,
embeddings), tuners/lora/dora.py get_weight_norm;
utils/save_and_load.py get_peft_model_state_dict (names); haotian-liu/LLaVA llava/model/builder.py
(names of what was trained beside it).
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from llava_pack.checkpoint.adapter_patterns import (
    FILE,
    Patterns,
    alpha_patterns,
    by_pattern,
    is_rank,
    rank_patterns,
)
from llava_pack.checkpoint.defects import shown
from llava_pack.checkpoint.keymap import original_name, plain_name, projector_name
from llava_pack.checkpoint.values import is_number
from llava_pack.format.errors import CheckpointError

Role = Literal["A", "B", "embedding_A", "embedding_B", "magnitude_vector"]
_PART = re.compile(
    r"(.+)\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(?:\.default)?(?:\.weight)?"
)
_WRAPPERS = re.compile(r"\.(?:base_layer|modules_to_save(?:\.default)?)(?=\.)")
_PEFT = "base_model.model."
_PROJECTOR = ("mm_projector.", "model.mm_projector.", "multi_modal_projector.", "linear_")
_CONVERTED = re.compile(r"(?:model\.)?(?:language_model|multi_modal_projector|vision_tower)\.")
_ORIGINAL_TOWER = re.compile(r"(?:model\.)?vision_tower\.vision_tower\.")
_CHANGES_MATHS = (
    "fan_in_fan_out",
    "megatron_config",
    "layer_replication",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
)
"""Settings of peft under which a layer computes something else than W + scale · B · A."""
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "mica", "lora_ga")
"""Beginnings of `init_lora_weights` that take from the base what they put into the adapter."""
_MERGED = (
    "merge it where it was trained (merge_and_unload, then save_pretrained), and use that folder"
)


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
    ranks: Patterns
    alphas: Patterns

    def rank_of(self, module: str) -> int:
        """Return the rank of a module, by the name that peft has for it."""
        return int(by_pattern(module, self.ranks, self.rank))

    def scale(self, module: str) -> float:
        """Return the factor of B · A for a module, `model.layers.0.mlp.up_proj`.

        >>> Adapter(rank=4, alpha=8, rooted=False, ranks={}, alphas={}).scale("x")
        2.0
        """
        alpha = float(by_pattern(module, self.alphas, self.alpha))
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.rooted else rank)


@dataclass(frozen=True, slots=True)
class AdapterPart:
    """A tensor of an adapter that changes one of the base.

    Attributes:
        target: the base's tensor, by its original name.
        module: what peft calls the layer; patterns are held against it.
        role: what it is in the sum.
    """

    target: str
    module: str
    role: Role


@dataclass(frozen=True, slots=True)
class Change:
    """What changes one tensor of the base: the names of the adapter's tensors by their role."""

    module: str
    parts: Mapping[Role, str]


@dataclass(frozen=True, slots=True)
class Contents:
    """An adapter's tensors, by the original names of those of its base.

    Attributes:
        changes: what is added to a tensor.
        replaced: the name of what stands in the place of a tensor, or beside them.
    """

    changes: Mapping[str, Change]
    replaced: Mapping[str, str]


def read_adapter(config: Mapping[str, Any]) -> Adapter:
    """Return the settings of an adapter.

    Raises:
        CheckpointError: it is of a kind whose maths are not known here, or a value is none.
    """
    _check_maths(config)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not (is_rank(rank) and is_number(alpha)):
        text = f"r is {shown(rank)} and lora_alpha {shown(alpha)}, expected numbers"
        raise CheckpointError(text, subject=FILE)
    return Adapter(
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        rooted=bool(config.get("use_rslora", False)),
        ranks=rank_patterns(config),
        alphas=alpha_patterns(config),
    )


def _check_maths(config: Mapping[str, Any]) -> None:
    """Refuse adapters that compute something else than is computed here."""
    kind, initial = config.get("peft_type", "LORA"), config.get("init_lora_weights")
    strange = [key for key in _CHANGES_MATHS if config.get(key)]
    if kind != "LORA":
        message = f"peft_type is {shown(kind)}, expected 'LORA'"
    elif strange:
        message = f"{', '.join(strange)} is not supported, expected a plain LoRA or DoRA"
    elif isinstance(initial, str) and initial.lower().startswith(_CHANGES_BASE):
        message = (
            f"init_lora_weights is {shown(initial)}: the adapter belongs to a base that was changed"
            " when its training began, and which is not published"
        )
    else:
        return
    raise CheckpointError(message, subject=FILE, hint=_MERGED)


def part_of(name: str) -> AdapterPart | None:
    """Return what a tensor of an adapter changes, None for one that stands for itself.

    >>> part_of("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight").target
    'model.layers.0.mlp.up_proj.weight'
    >>> part_of("base_model.model.language_model.model.layers.0.mlp.up_proj.lora_B.weight").target
    'model.layers.0.mlp.up_proj.weight'
    >>> part_of("model.mm_projector.0.weight") is None
    True
    """
    match = _PART.fullmatch(name)
    if match is None:
        return None
    target = original_name(plain_name(f"{match[1]}.weight"))
    module = match[1].removeprefix("module.").removeprefix(_PEFT)
    return AdapterPart(target, module, cast("Role", match[2]))


def trained_name(name: str) -> str:
    """Return the original name of a tensor that was trained beside an adapter, or alone.

    >>> trained_name("base_model.model.model.mm_projector.0.weight")
    'model.mm_projector.0.weight'
    >>> trained_name("base_model.model.model.language_model.embed_tokens.base_layer.weight")
    'model.embed_tokens.weight'
    """
    plain = plain_name(_WRAPPERS.sub("", name))
    return projector_name(plain) if plain.startswith(_PROJECTOR) else original_name(plain)


def sorted_contents(names: Iterable[str]) -> Contents:
    """Return what an adapter's tensors change and replace.

    Raises:
        CheckpointError: one of A and B is missing, or they are of a kind that is not known.
    """
    changes: dict[str, Change] = {}
    replaced: dict[str, str] = {}
    for name in names:
        part = part_of(name)
        if part is None:
            replaced[trained_name(name)] = name
        else:
            before = changes.get(part.target, Change(part.module, {}))
            changes[part.target] = Change(part.module, {**before.parts, part.role: name})
    for target, change in changes.items():
        roles = change.parts.keys() - {"magnitude_vector"}
        if roles not in ({"A", "B"}, {"embedding_A", "embedding_B"}):
            raise CheckpointError(
                f"{target} has only one of lora_A and lora_B", subject="adapter_model"
            )
        if "embedding_A" in roles and len(change.parts) > 2:
            raise CheckpointError(
                f"{target} is an embedding with a magnitude (DoRA), which is not supported",
                subject="adapter_model",
                hint=_MERGED,
            )
    return Contents(changes, replaced)


def over_converted(names: Collection[str]) -> bool:
    """Say whether an adapter was trained on a converted LLaVA, by the names of its tensors.

    >>> over_converted(["base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.weight"])
    True
    >>> over_converted(["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"])
    False
    """
    plain = [plain_name(name) for name in names]
    return any(_CONVERTED.match(name) and not _ORIGINAL_TOWER.match(name) for name in plain)


def changed_shape(shapes: Mapping[Role, tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape of the tensor that an adapter's parts change.

    >>> changed_shape({"A": (4, 32), "B": (64, 4)})
    (64, 32)
    """
    if "embedding_A" in shapes:
        return shapes["embedding_A"][1:] + shapes["embedding_B"][:1]
    return shapes["B"][:1] + shapes["A"][1:]


def changed_weight(weight: Any, parts: Mapping[Role, Any], scale: float) -> Any:
    """Return a base tensor with what an adapter adds.

    W + scale · B · A; with a magnitude (DoRA) each row is then scaled to it.

    Args:
        weight: in 32 bits.
        parts: the adapter's tensors in 32 bits.
        scale: factor of B · A.
    """
    if "embedding_A" in parts:
        return weight + (parts["embedding_B"] @ parts["embedding_A"] * scale).T
    whole = weight + parts["B"] @ parts["A"] * scale
    if "magnitude_vector" not in parts:
        return whole
    lengths = (whole * whole).sum(1) ** 0.5
    return whole * (parts["magnitude_vector"].reshape(-1) / lengths)[:, None]
