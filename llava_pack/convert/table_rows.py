"""Embedding tables with another number of rows than they came with."""

from dataclasses import dataclass, replace

from llava_pack.convert.shards import SourceTensor

ROW_MULTIPLE = 64
"""Rows of the embedding table are a multiple of this. Source: transformers
models/llava/convert_llava_weights_to_hf.py."""


def whole_rows(least: int) -> int:
    """Return the rows of a table that has room for `least`.

    >>> whole_rows(64), whole_rows(65)
    (64, 128)
    """
    return -(-least // ROW_MULTIPLE) * ROW_MULTIPLE


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRows:
    """Rows of the embedding table: those that are kept, all, and which one fills the others."""

    kept: int
    total: int
    filler: int


def with_rows(tensor: SourceTensor, rows: TableRows) -> SourceTensor:
    """Return a table with another number of rows; those behind the kept are copies of one."""
    entry = tensor.entry
    wider = replace(entry, shape=(rows.total, *entry.shape[1:]))
    row_bytes = wider.size_bytes // rows.total
    start = min(rows.filler, rows.kept - 1) * row_bytes

    def read() -> memoryview:
        view = tensor.read().cast("B")[: rows.kept * row_bytes]
        table = bytearray(wider.size_bytes)
        table[: len(view)] = view
        table[len(view) :] = bytes(view[start : start + row_bytes]) * (rows.total - rows.kept)
        return memoryview(table)

    return SourceTensor(wider, read, tensor.release)
