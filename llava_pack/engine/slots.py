"""The cache of keys and values, by rows, and the attention that reads it.

Every request owns one row; its tokens begin at column 0. All layers share one `Plan`, which says
what the current forward pass does: prefill a chunk of one row, or decode one token in each of some
rows. Attention is handed the same plan and makes its own masks.

Decoding has two forms. On a CPU every row is attended at its true length: it costs nothing there
and makes a row's result independent of its neighbours. On a GPU the first rows are computed, in a
few fixed shapes, and masked; a row among them that decodes nothing writes to its spare column and
looks at column 0.
"""

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

ATTENTION = "llava_pack_slots"


@dataclass(kw_only=True)
class Plan:
    """What a forward pass does.

    A prefill: tokens `begin..end` of `row`. A decode: one token in each of `rows`; `columns` is
    where each writes. They hold `lengths` tokens with the new one, or, where the rows are padded
    to `kv_length`, as many as `after` says on the device.
    """

    row: int = 0
    begin: int = 0
    end: int = 0
    rows: tuple[int, ...] = ()
    index: torch.Tensor | None = None
    lengths: tuple[int, ...] = ()
    columns: torch.Tensor | None = None
    after: torch.Tensor | None = None
    kv_length: int = 0
    masks: dict[tuple[int | None, torch.device], torch.Tensor] = field(default_factory=dict)

    @classmethod
    def decode(cls, rows: Sequence[int], lengths: Sequence[int], device: Any) -> "Plan":
        """Return a decode of rows at their true lengths, before the new token."""
        return cls(
            rows=tuple(rows),
            index=torch.tensor(rows, device=device),
            lengths=tuple(length + 1 for length in lengths),
            columns=torch.tensor(lengths, device=device),
        )

    def chunk_mask(self, like: torch.Tensor, window: int | None) -> torch.Tensor:
        """Return what a chunk's tokens may see, as (chunk, end), added to the scores."""
        key = window, like.device
        if key not in self.masks:
            here = torch.arange(self.begin, self.end, device=like.device)[:, None]
            there = torch.arange(self.end, device=like.device)[None, :]
            seen = there <= here
            if window is not None:
                seen &= there > here - window
            self.masks[key] = _added(seen, like)
        return self.masks[key]

    def decode_mask(self, like: torch.Tensor, window: int | None) -> torch.Tensor:
        """Return what padded rows may see, as (rows, 1, 1, keys), added to the scores."""
        key = window, like.device
        if key not in self.masks:
            if self.after is None:
                raise RuntimeError("a decode at true lengths has no mask")
            lengths = self.after.to(like.device)[:, None]
            there = torch.arange(self.kv_length, device=like.device)[None, :]
            seen = there < lengths
            if window is not None:
                seen &= there >= lengths - window
            self.masks[key] = _added(seen, like)[:, None, None]
        return self.masks[key]


def _here(index: torch.Tensor | None, there: torch.Tensor) -> torch.Tensor:
    """Return an index where a layer's memory is; the layers may be on several devices."""
    if index is None:
        raise RuntimeError("a decode without its rows")
    return index.to(there.device)


def _added(seen: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(~seen, float("-inf"))


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer: (slots, kv heads, columns + 1 spare, head dim)."""

    is_sliding = False

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> None:
        super().__init__()
        self.keys = _untouched_zeros(shape, dtype, device)
        self.values = _untouched_zeros(shape, dtype, device)
        self.is_initialized = True
        self.plan = Plan()

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the memory is there from the start."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write what the plan says and return what attention reads, as views."""
        plan = self.plan
        if not plan.rows:
            self.keys[plan.row, :, plan.begin : plan.end] = key_states[0]
            self.values[plan.row, :, plan.begin : plan.end] = value_states[0]
            rows = slice(plan.row, plan.row + 1)
            return self.keys[rows, :, : plan.end], self.values[rows, :, : plan.end]
        index, columns = _here(plan.index, self.keys), _here(plan.columns, self.keys)
        self.keys[index, :, columns] = key_states[:, :, 0]
        self.values[index, :, columns] = value_states[:, :, 0]
        if plan.after is None:
            return self.keys, self.values
        rows, seen = slice(0, len(plan.rows)), slice(0, plan.kv_length)
        return self.keys[rows, :, seen], self.values[rows, :, seen]

    def get_seq_length(self) -> int:
        """Return how many tokens came before the chunk."""
        return self.plan.begin

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the keys' length and offset for a chunk."""
        return self.plan.begin + query_length, 0

    def get_max_length(self) -> int:
        """Return the number of columns that requests may use."""
        return int(self.keys.shape[2]) - 1


def _untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> torch.Tensor:
    """Return zeros; on a CPU without touching them, so that unused rows take no memory."""
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    try:
        memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    except OSError as error:
        raise MemoryError(str(error)) from error
    return torch.frombuffer(memory, dtype=dtype).reshape(shape)


class SlotCache(Cache):  # type: ignore[misc]
    """The layers of a model, all on one plan."""

    def __init__(self, layers: list[SlotLayer]) -> None:
        super().__init__(layers=layers)

    def follow(self, plan: Plan) -> None:
        """Take the plan of the next forward pass."""
        for layer in self.layers:
            layer.plan = plan

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` tokens to another row."""
        for layer in self.layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]


def slot_attention(  # noqa: PLR0913, PLR0917 - the library's signature
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - the plan makes the masks
    scaling: float | None = None,
    sliding_window: int | None = None,
    slot_plan: Plan | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as the plan says; the library calls it in place of its own attention.

    Args:
        module: the attention layer.
        query: (rows, heads, tokens, head dim); tokens is 1 while decoding.
        key: (rows, kv heads, keys, head dim), from the cache; all its rows in a decode at true
            lengths.
        value: as `key`.
        attention_mask: not looked at.
        scaling: of the scores.
        sliding_window: how far back a token sees, where the model limits that.
        slot_plan: of this forward pass.
    """
    if slot_plan is None:
        raise RuntimeError(f"{type(module).__name__} was called without a plan")
    if not slot_plan.rows:
        out = _chunk(query, key, value, slot_plan, scaling, sliding_window)
    elif slot_plan.after is not None:
        out = _padded(query, key, value, slot_plan, scaling, sliding_window)
    else:
        out = _rows(query, key, value, slot_plan, scaling, sliding_window)
    return out.transpose(1, 2).contiguous(), None


def _chunk(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: Plan,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    grouped = query.shape[1] != key.shape[1]
    first = plan.begin == 0 and (window is None or window >= plan.end)
    mask = None if first else plan.chunk_mask(query, window)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=first, scale=scaling, enable_gqa=grouped
    )


def _padded(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: Plan,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    mask = plan.decode_mask(query, window)
    grouped = _by_kv_head(query, key)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(query.shape)


def _rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: Plan,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    grouped = query.shape[1] != key.shape[1]
    out = torch.empty_like(query)
    for place, (row, length) in enumerate(zip(plan.rows, plan.lengths, strict=True)):
        seen = slice(max(0, length - window) if window else 0, length)
        here, there = slice(place, place + 1), slice(row, row + 1)
        # For one token the CPU's own 16-bit kernels take several times as long as widening does.
        keys, values = key[there, :, seen].float(), value[there, :, seen].float()
        out[here] = scaled_dot_product_attention(
            query[here].float(), keys, values, scale=scaling, enable_gqa=grouped
        )
    return out


def _by_kv_head(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return one token's heads as several tokens of the kv head that they share."""
    rows, heads, _, head_dim = query.shape
    kv_heads = key.shape[1]
    return query.reshape(rows, kv_heads, heads // kv_heads, head_dim)


AttentionInterface.register(ATTENTION, slot_attention)
