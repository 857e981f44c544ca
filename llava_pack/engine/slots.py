"""The cache of keys and values, by rows, and the attention that reads it.

Every request owns one row; its tokens begin at column 0. All layers share the plan of the current
forward pass: a `Prefill` of a chunk of one row, or a decode of one token in each of some rows.
Attention is handed the same plan, which makes its own masks.

Decoding has two forms. On a CPU every row is attended at its true length (`Decode`): it costs
nothing there and makes a row's result independent of its neighbours. On a GPU the first rows are
computed, in a few fixed shapes, and masked (`PaddedDecode`); a row among them that decodes nothing
writes to its spare column and looks at column 0.
"""

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

ATTENTION = "llava_pack_slots"


Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values."""
_Masks = dict[tuple[int | None, torch.device], torch.Tensor]


class Heads(NamedTuple):
    """What one layer attends, see `slot_attention`."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scaling: float | None
    window: int | None


@dataclass(frozen=True, slots=True)
class Prefill:
    """Tokens `begin..end` of one row."""

    row: int
    begin: int
    end: int
    _masks: _Masks = field(default_factory=dict, repr=False, compare=False)

    def write(self, cache: Pair, new: Pair) -> Pair:
        """Write a chunk into a layer's memory, and return what attention reads, as views."""
        row, seen = slice(self.row, self.row + 1), slice(0, self.end)
        for memory, states in zip(cache, new, strict=True):
            memory[self.row, :, self.begin : self.end] = states[0]
        return cache[0][row, :, seen], cache[1][row, :, seen]

    def attend(self, heads: Heads) -> torch.Tensor:
        """Return what the chunk's tokens see."""
        query, key, value, scaling, window = heads
        grouped = query.shape[1] != key.shape[1]
        first = self.begin == 0 and (window is None or window >= self.end)
        mask = None if first else self._mask(query, window)
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=first, scale=scaling, enable_gqa=grouped
        )

    def _mask(self, like: torch.Tensor, window: int | None) -> torch.Tensor:
        """Return what a chunk's tokens may see, as (chunk, end), added to the scores."""
        key = window, like.device
        if key not in self._masks:
            here = torch.arange(self.begin, self.end, device=like.device)[:, None]
            there = torch.arange(self.end, device=like.device)[None, :]
            seen = there <= here
            if window is not None:
                seen &= there > here - window
            self._masks[key] = _added(seen, like)
        return self._masks[key]


@dataclass(frozen=True, slots=True)
class Decode:
    """One token in each of some rows, at their true lengths.

    Attributes:
        rows: of the cache.
        lengths: what each holds with the new token.
        index: `rows`, on the device.
        columns: where each writes, on the device.
    """

    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    index: torch.Tensor
    columns: torch.Tensor
    begin: ClassVar[int] = 0

    @classmethod
    def of(cls, rows: Sequence[int], lengths: Sequence[int], device: Any) -> "Decode":
        """Return the decode of rows that hold `lengths` tokens before the new one."""
        return cls(
            rows=tuple(rows),
            lengths=tuple(length + 1 for length in lengths),
            index=torch.tensor(rows, device=device),
            columns=torch.tensor(lengths, device=device),
        )

    def write(self, cache: Pair, new: Pair) -> Pair:
        """Write one token a row into a layer's memory, and return all of that."""
        _put(cache, new, self.index, self.columns)
        return cache

    def attend(self, heads: Heads) -> torch.Tensor:
        """Return what each row's token sees, one row after the other."""
        query, key, value, scaling, window = heads
        grouped = query.shape[1] != key.shape[1]
        out = torch.empty_like(query)
        for place, (row, length) in enumerate(zip(self.rows, self.lengths, strict=True)):
            seen = slice(max(0, length - window) if window else 0, length)
            here, there = slice(place, place + 1), slice(row, row + 1)
            # For one token the CPU's own 16-bit kernels take several times as long as widening.
            keys, values = key[there, :, seen].float(), value[there, :, seen].float()
            out[here] = scaled_dot_product_attention(
                query[here].float(), keys, values, scale=scaling, enable_gqa=grouped
            )
        return out


@dataclass(frozen=True, slots=True)
class PaddedDecode:
    """One token in each of the first rows, attended up to one length; all of it on the device.

    Attributes:
        index: the rows.
        columns: where each writes.
        lengths: what each holds with the new token.
        kv_length: columns that are attended, masked beyond `lengths`.
    """

    index: torch.Tensor
    columns: torch.Tensor
    lengths: torch.Tensor
    kv_length: int
    _masks: _Masks = field(default_factory=dict, repr=False, compare=False)
    begin: ClassVar[int] = 0

    def write(self, cache: Pair, new: Pair) -> Pair:
        """Write one token a row into a layer's memory, and return what is attended, as views."""
        _put(cache, new, self.index, self.columns)
        rows, seen = slice(0, len(self.index)), slice(0, self.kv_length)
        return cache[0][rows, :, seen], cache[1][rows, :, seen]

    def attend(self, heads: Heads) -> torch.Tensor:
        """Return what each row's token sees, all rows together."""
        query, key, value, scaling, window = heads
        # The heads of one token go as several tokens of the kv head that they share.
        rows, count, _, head_dim = query.shape
        grouped = query.reshape(rows, key.shape[1], count // key.shape[1], head_dim)
        mask = self._mask(query, window)
        out = scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
        return out.reshape(query.shape)

    def _mask(self, like: torch.Tensor, window: int | None) -> torch.Tensor:
        """Return what the rows may see, as (rows, 1, 1, keys), added to the scores."""
        key = window, like.device
        if key not in self._masks:
            lengths = self.lengths.to(like.device)[:, None]
            there = torch.arange(self.kv_length, device=like.device)[None, :]
            seen = there < lengths
            if window is not None:
                seen &= there >= lengths - window
            self._masks[key] = _added(seen, like)[:, None, None]
        return self._masks[key]


Plan = Prefill | Decode | PaddedDecode
"""What one forward pass does."""


def _put(cache: Pair, new: Pair, index: torch.Tensor, columns: torch.Tensor) -> None:
    """Write one token a row where a layer's memory is; the layers may be on several devices."""
    index, columns = index.to(cache[0].device), columns.to(cache[0].device)
    for memory, states in zip(cache, new, strict=True):
        memory[index, :, columns] = states[:, :, 0]


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
        self.plan: Plan = Prefill(0, 0, 0)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the memory is there from the start."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> Pair:
        """Write what the plan says and return what attention reads, as views."""
        return self.plan.write((self.keys, self.values), (key_states, value_states))

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
    out = slot_plan.attend(Heads(query, key, value, scaling, sliding_window))
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, slot_attention)
