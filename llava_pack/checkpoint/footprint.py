"""Memory that serving a checkpoint takes, by precision, context and concurrent requests.

weights + slots · context · key-value bytes per token + working memory, and a tenth on top.

Over several GPUs each has its layers with their keys and values, and a context and working memory
of its own; embeddings, head, projector and tower are on the first.

Only the language model's linear layers are quantized; embeddings, head, projector and tower stay
16-bit (32-bit for fp32, and on a CPU, where 16-bit arithmetic is slow or missing).
"""

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal

from llava_pack.checkpoint.expected import language_shapes, projector_shapes, tower_shapes
from llava_pack.checkpoint.kind import has_tiles
from llava_pack.checkpoint.tiling import tiling
from llava_pack.checkpoint.values import size
from llava_pack.checkpoint.vision import TowerRules, tower_rules
from llava_pack.format.precision import FACTS, PRECISIONS, QUANTIZED, Precision, computes_in

Device = Literal["cpu", "cuda"]

_LINEAR = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")
_MIB = 1 << 20
_PROCESS_BYTES: Mapping[Device, int] = {"cpu": 395 * _MIB, "cuda": 512 * _MIB}
"""What the process has before the weights: libraries, or the CUDA context."""
_QUANTIZER_BYTES = 55 * _MIB
"""What bitsandbytes adds to a process on the CPU."""
_PREFILL_TOKENS = 2048
"""Working memory is what one prefill of this many tokens needs."""
_MARGIN = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """How many parameters of each kind a checkpoint has.

    `rows` is how many outputs the quantized layers have together: int8 keeps a scale for each.
    `features` is no parameters: it is the numbers that one picture's tiles become at most.
    `stored_bytes` are of weights of which nothing else is known: they take in memory what they take
    in files, at every precision, and are spread evenly.
    """

    quantized: int = 0
    rows: int = 0
    kept: int = 0
    features: int = 0
    stored_bytes: int = 0

    @property
    def total(self) -> int:
        """All parameters."""
        return self.quantized + self.kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Predicted memory in bytes, of all devices together.

    `kept_bytes` of the weights are in no layer, and stay on the first device.
    """

    weights_bytes: int
    kept_bytes: int
    cache_bytes: int
    work_bytes: int
    layers: int

    @property
    def expected_bytes(self) -> int:
        """Everything, as it is measured once the cache is full."""
        return self.weights_bytes + self.cache_bytes + self.work_bytes

    @property
    def total_bytes(self) -> int:
        """What a machine should have: a tenth more, for what fragments."""
        return round(self.expected_bytes * (1 + _MARGIN))

    @property
    def layer_bytes(self) -> int:
        """Weights, keys and values of one layer."""
        return (self.weights_bytes - self.kept_bytes + self.cache_bytes) // self.layers

    def places(self, has_bytes: Sequence[int]) -> tuple[int, ...]:
        """Return the device of each layer, as a place in `has_bytes`: the memory of each."""
        work = self.work_bytes // len(has_bytes)
        rooms = [max(1, round(has / (1 + _MARGIN)) - work) for has in has_bytes]
        return spread_layers(self.layers, self.layer_bytes, self.kept_bytes, rooms)

    def shares(self, has_bytes: Sequence[int]) -> tuple[int, ...]:
        """Return what each device should have once the layers are on them."""
        places, work = self.places(has_bytes), self.work_bytes // len(has_bytes)
        held = [work + places.count(device) * self.layer_bytes for device in range(len(has_bytes))]
        held[0] += self.kept_bytes
        return tuple(round(one * (1 + _MARGIN)) for one in held)


def memory_bytes(
    parameters: Parameters,
    config: Mapping[str, Any],
    *,
    context_tokens: int,
    slots: int,
    device: Device = "cuda",
    gpus: int = 1,
) -> dict[str, int]:
    """Return the predicted memory of every precision.

    Args:
        parameters: of the checkpoint and its tower.
        config: sizes of the language model, in the original keys.
        context_tokens: longest conversation of a slot.
        slots: conversations at a time.
        device: where it runs.
        gpus: how many share the layers.

    Raises:
        CheckpointError: a size is missing from a configuration.
    """
    return {
        precision: footprint(
            parameters,
            config,
            precision=precision,
            device=device,
            context_tokens=context_tokens,
            slots=slots,
            gpus=gpus,
        ).total_bytes
        for precision in PRECISIONS
    }


def footprint(
    parameters: Parameters,
    config: Mapping[str, Any],
    *,
    precision: Precision,
    device: Device,
    context_tokens: int,
    slots: int,
    gpus: int = 1,
) -> Footprint:
    """Return the predicted memory of one precision.

    Raises:
        CheckpointError: a size is missing from the configuration.
    """
    kept = 4 if computes_in(precision, device) == "float32" else 2
    work = working_bytes(
        config,
        context_tokens=context_tokens,
        slots=slots,
        element_bytes=kept,
        features=parameters.features,
    )
    counted = _quantized_bytes(parameters, precision) + parameters.kept * kept
    return Footprint(
        weights_bytes=parameters.stored_bytes + counted,
        kept_bytes=parameters.kept * kept,
        cache_bytes=slots * context_tokens * cache_bytes_per_token(config, kept),
        work_bytes=gpus * (_process_bytes(precision, device) + work),
        layers=size(config, "num_hidden_layers"),
    )


def working_bytes(
    config: Mapping[str, Any],
    *,
    context_tokens: int,
    slots: int,
    element_bytes: int,
    features: int = 0,
) -> int:
    """Return what one prefill and the logits of everybody take beside weights and cache.

    Args:
        config: the checkpoint's, in the original keys.
        context_tokens: longest conversation of a slot.
        slots: conversations at a time.
        element_bytes: of what is computed in.
        features: of one picture, which are there twice while its tiles are joined.

    Raises:
        CheckpointError: a size is missing from the configuration.
    """
    hidden, inner = size(config, "hidden_size"), size(config, "intermediate_size")
    rows = min(context_tokens, _PREFILL_TOKENS)
    numbers = rows * (4 * hidden + 3 * inner) + 2 * features
    return numbers * element_bytes + size(config, "vocab_size") * slots * 4


def cache_bytes_per_token(config: Mapping[str, Any], element_bytes: int = 2) -> int:
    """Return key and value bytes of one token.

    >>> cache_bytes_per_token(
    ...     {"hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32}
    ... )
    524288
    """
    heads = size(config, "num_attention_heads")
    head = size(config, "head_dim", size(config, "hidden_size") // heads)
    groups = size(config, "num_key_value_heads", heads)
    return 2 * size(config, "num_hidden_layers") * groups * head * element_bytes


def count_parameters(config: Mapping[str, Any], tower_config: Mapping[str, Any]) -> Parameters:
    """Return the parameters of a checkpoint and its tower, from the configurations alone.

    Raises:
        CheckpointError: a value is missing, or not usable.
    """
    shapes = language_shapes(config) | projector_shapes(config)
    counted, tower = parameters_of(shapes.items()), tower_rules(config, tower_config)
    return replace(
        counted,
        kept=counted.kept + tower_parameters(tower_config, tower.layers),
        features=_tile_features(config, tower),
    )


def _tile_features(config: Mapping[str, Any], tower: TowerRules) -> int:
    """Return the numbers that the tiles of one picture become, before any is left out."""
    if not has_tiles(config):
        return 0
    layouts = tiling(config, tower).layouts
    tiles = 1 + max(width * height for width, height in layouts) // tower.image_size**2
    return tiles * tower.features * size(config, "hidden_size")


def parameters_of(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> Parameters:
    """Return the parameters of named tensors in the original layout."""
    quantized = rows = kept = 0
    for name, shape in shapes:
        count = math.prod(shape)
        if _LINEAR.fullmatch(name):
            quantized += count
            rows += shape[0]
        else:
            kept += count
    return Parameters(quantized=quantized, rows=rows, kept=kept)


def tower_parameters(tower_config: Mapping[str, Any], layers: int | None = None) -> int:
    """Return the parameters of a tower's vision side: of all layers, or of those that are run."""
    return sum(math.prod(shape) for shape in tower_shapes(tower_config, layers).values())


def _quantized_bytes(parameters: Parameters, precision: Precision) -> int:
    facts = FACTS[precision]
    weight_bytes = facts.bits / 8 + facts.scale_bytes
    return math.ceil(parameters.quantized * weight_bytes) + facts.row_bytes * parameters.rows


def _process_bytes(precision: Precision, device: Device) -> int:
    quantizer = _QUANTIZER_BYTES if device == "cpu" and precision in QUANTIZED else 0
    return _PROCESS_BYTES[device] + quantizer


def spread_layers(
    count: int, layer_bytes: int, fixed_bytes: int, free_bytes: Sequence[int]
) -> tuple[int, ...]:
    """Return the device of each layer, as a place in `free_bytes`; all on the first if it fits.

    Layers stay in their order, and each device is filled to the same part of what it has. A layer
    is never cut: it goes where its middle falls.

    Args:
        count: layers.
        layer_bytes: weights, keys and values of one.
        fixed_bytes: what stays on the first device.
        free_bytes: of each device, more than 0.

    >>> spread_layers(4, 10, 10, [100, 100]), spread_layers(4, 10, 10, [30, 30])
    ((0, 0, 0, 0), (0, 0, 1, 1))
    """
    total = fixed_bytes + count * layer_bytes
    if len(free_bytes) < 2 or total <= free_bytes[0]:
        return (0,) * count
    ends = [total * free / sum(free_bytes) - fixed_bytes for free in accumulate(free_bytes)]
    return tuple(bisect_left(ends, (layer + 0.5) * layer_bytes) for layer in range(count))
