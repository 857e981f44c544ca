"""An adapter or a projector put into its base model, tensor by tensor.

Weight + scale · B · A, computed in 32 bits and rounded once to the base's type, as loading adapter
and base together does. A projector alone is only put beside the language model: no torch is needed.

Source: peft tuners/lora/model.py merge_and_unload, tuners/lora/layer.py get_delta_weight (scale,
patterns); haotian-liu/LLaVA llava/model/builder.py (which file gives what).
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.keymap import is_weight, plain_name, projector_name
from llava_pack.checkpoint.kind import ADAPTERS, PROJECTORS, TRAINABLES
from llava_pack.convert.parts import Parts, read_json, weight_paths
from llava_pack.convert.shards import SourceTensor, opened, renamed
from llava_pack.format.errors import CheckpointError

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


@contextmanager
def merged_parts(
    adapter_dir: Path, base_dir: Path, *, config: Mapping[str, Any] | None = None
) -> Iterator[Parts]:
    """Open an adapter or a projector with its base, as the whole LLaVA that they make together.

    Args:
        adapter_dir: adapter_model and non_lora_trainables, or mm_projector; config.json.
        base_dir: the language model, with the tokenizer.
        config: in place of the adapter's config.json.

    Raises:
        CheckpointError: a file is missing or damaged, or an adapter has no place in the base.
    """
    names = {path.name for path in adapter_dir.iterdir()}
    wanted = ADAPTERS if names & set(ADAPTERS) else ()
    beside = TRAINABLES if wanted else PROJECTORS
    files = [_one_of(adapter_dir, names, group) for group in (wanted, beside) if group]
    with (
        opened(files, writable=True) as given,
        opened(weight_paths(base_dir), writable=True) as base,
    ):
        pairs, others = _sorted(given)
        trained = {_beside(one.entry.name): one for one in others}
        tensors = [t for t in base if is_weight(t.entry.name) and t.entry.name not in trained]
        unplaced = sorted(pairs.keys() - {tensor.entry.name for tensor in tensors})
        if unplaced:
            raise CheckpointError(
                f"the base has no {unplaced[0]}, which the adapter changes",
                subject=base_dir.name,
                hint="take the base model that the adapter was trained on",
            )
        if pairs:
            adapter = read_adapter(read_json(adapter_dir / "adapter_config.json"))
            tensors = [_merged(tensor, pairs, adapter) for tensor in tensors]
        whole = [*tensors, *(renamed(one, name) for name, one in trained.items())]
        said = read_json(adapter_dir / "config.json") if config is None else config
        yield Parts(config=said, tensors=whole, texts=base_dir)


Pairs = dict[str, dict[str, SourceTensor]]


def _one_of(folder: Path, names: set[str], group: tuple[str, ...]) -> Path:
    for name in group:
        if name in names:
            return folder / name
    raise CheckpointError(f"there is no {group[0]}", subject=folder.name)


def _sorted(tensors: list[SourceTensor]) -> tuple[Pairs, list[SourceTensor]]:
    """Return the pairs of A and B by the base tensor that they change, and all others."""
    pairs: Pairs = {}
    others: list[SourceTensor] = []
    for tensor in tensors:
        match = _ADAPTER.fullmatch(tensor.entry.name)
        if match is None:
            others.append(tensor)
        else:
            pairs.setdefault(f"{plain_name(match[1])}.weight", {})[match[2]] = tensor
    for name, pair in pairs.items():
        if pair.keys() != {"A", "B"}:
            raise CheckpointError(f"{name} has one of lora_A and lora_B only")
    return pairs, others


def _beside(name: str) -> str:
    """Return the original name of what was trained beside the adapter."""
    plain = plain_name(name)
    return projector_name(plain) if plain.startswith(_PROJECTOR) else plain


def _merged(tensor: SourceTensor, pairs: Pairs, adapter: Adapter) -> SourceTensor:
    name = tensor.entry.name
    if name not in pairs:
        return tensor
    pair, scale = pairs[name], adapter.scale(name.removesuffix(".weight"))
    outer, inner = pair["B"].entry.shape, pair["A"].entry.shape
    if (outer[:1] + inner[1:]) != tensor.entry.shape or outer[1:] != inner[:1]:
        raise CheckpointError(
            f"{name} has shape {tensor.entry.shape}, the adapter is for {outer[:1] + inner[1:]}",
            hint="take the base model that the adapter was trained on",
        )

    def read() -> memoryview:
        import torch

        from llava_pack.convert.quantized_tensors import as_bytes, loaded

        delta = loaded(pair["B"], "F32") @ loaded(pair["A"], "F32") * scale
        whole = loaded(tensor, "F32").add(delta)
        types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        return as_bytes(whole.to(types[tensor.entry.dtype]))

    return SourceTensor(tensor.entry, read, tensor.release)


def _by_pattern(module: str, patterns: Mapping[str, Any], default: Any) -> Any:
    """Return the value of the first pattern that names the module or its end."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default
