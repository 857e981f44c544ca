"""Decoding in one of a few shapes, its inputs in buffers that stay where they are.

The first rows of the cache are computed, to a power of two, and attended up to a bucketed length.
A row among them that decodes nothing gets token 0 at position 0, writes to its spare column, and
looks at column 0: what it holds stays as it is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from llava_pack.engine.batching.kv_cache import PaddedDecode
from llava_pack.engine.batching.rows import power_of_two

_STEP = 64
_LEAST_CAPTURED = 256


class BatchShape(NamedTuple):
    """How many rows are computed, and how many of their columns are attended."""

    rows: int
    columns: int


class Buckets(NamedTuple):
    """The shapes of one cache: `slots` rows of `columns` columns beside the spare one.

    Captured shapes are few, lengths doubling from one to the next; others follow the longest row
    more closely.
    """

    slots: int
    columns: int
    captured: bool = False

    def shape(self, rows: Sequence[int], lengths: Sequence[int]) -> BatchShape:
        """Return the shape for rows that hold `lengths` tokens before the new one.

        >>> Buckets(8, 4096).shape([0, 4], [10, 70]), Buckets(8, 4096, True).shape([0], [300])
        (BatchShape(rows=8, columns=128), BatchShape(rows=1, columns=512))
        """
        longest = max(lengths) + 1
        columns = -(-longest // _STEP) * _STEP
        if self.captured:
            columns = max(_LEAST_CAPTURED, power_of_two(longest))
        count = min(power_of_two(max(rows) + 1), self.slots)
        return BatchShape(count, min(columns, self.columns))


class Batch:
    """The inputs of a decode in one shape, on the model's device.

    Args:
        shape: of the decode.
        spare: the column that rows without a token write to.
        device: of the model.
    """

    def __init__(self, shape: BatchShape, spare: int, device: torch.device) -> None:
        self.shape = shape
        self._spare = spare
        self._host = torch.empty(4, shape.rows, dtype=torch.long)
        if device.type == "cuda":
            self._host = self._host.pin_memory()
        self._table = torch.empty(4, shape.rows, dtype=torch.long, device=device)
        self._index = torch.arange(shape.rows, device=device)

    @property
    def ids(self) -> torch.Tensor:
        """Return the last token of each row, as (rows, 1)."""
        return self._table[0][:, None]

    @property
    def positions(self) -> torch.Tensor:
        """Return where each of them stands, as (rows, 1)."""
        return self._table[1][:, None]

    def fill(self, rows: Sequence[int], tokens: Sequence[int], lengths: Sequence[int]) -> None:
        """Put in what the next decode takes, in one copy."""
        self._host[0], self._host[1] = 0, 0
        self._host[2], self._host[3] = self._spare, 1
        for row, token, length in zip(rows, tokens, lengths, strict=True):
            self._host[:, row] = torch.tensor((token, length, length, length + 1))
        self._table.copy_(self._host)

    def plan(self) -> PaddedDecode:
        """Return the plan of a forward pass over the buffers."""
        return PaddedDecode(self._index, self._table[2], self._table[3], self.shape.columns)
