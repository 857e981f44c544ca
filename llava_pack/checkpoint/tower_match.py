"""Whether the tower inside a checkpoint is the stock one that lies beside it, by its values.

Of each tensor some elements at its beginning, its middle and its end are compared: training moves
all of them. Types may differ; a value counts as equal if it is once it is rounded to the other's.
"""

import struct
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from llava_pack.checkpoint.keymap import INSIDE, is_weight, tower_name
from llava_pack.checkpoint.tensors import ELEMENT_BYTES, TensorEntry, TensorFile
from llava_pack.checkpoint.weight_file import open_weights

_SAMPLE = 1024
_TYPES = ("BF16", "F16", "F32", "F64")
"""By how much of a value they keep."""
_CODES = {"F16": "e", "F32": "f", "F64": "d"}
Held = Mapping[str, tuple[TensorFile, TensorEntry]]


def changed_tensors(model: Iterable[Path], tower: Iterable[Path]) -> list[str]:
    """Return the tower's tensors that are others inside the checkpoint.

    Args:
        model: the checkpoint's weight files.
        tower: the tower's.

    Raises:
        CheckpointError: a file of either is damaged.
    """
    with ExitStack() as stack:
        inside, stock = _held(model, stack, INSIDE), _held(tower, stack, "")
        return [name for name in inside if name in stock and _differ(inside[name], stock[name])]


def _held(paths: Iterable[Path], stack: ExitStack, prefix: str) -> Held:
    held: dict[str, tuple[TensorFile, TensorEntry]] = {}
    for path in paths:
        file = open_weights(path)
        stack.callback(file.close)
        held |= {
            tower_name(entry.name.removeprefix(prefix)): (file, entry)
            for entry in file.entries
            if entry.name.startswith(prefix) and is_weight(entry.name)
        }
    return held


def _differ(one: tuple[TensorFile, TensorEntry], other: tuple[TensorFile, TensorEntry]) -> bool:
    if one[1].shape != other[1].shape or {one[1].dtype, other[1].dtype} - {*_TYPES}:
        return True
    narrow = min(one[1].dtype, other[1].dtype, key=_precision)
    pairs = zip(_sampled(*one), _sampled(*other), strict=True)
    return any(_rounded(left, narrow) != _rounded(right, narrow) for left, right in pairs)


def _precision(dtype: str) -> int:
    return _TYPES.index(dtype)


def _sampled(file: TensorFile, entry: TensorEntry) -> list[float]:
    """Return some elements of a tensor."""
    size, view = ELEMENT_BYTES[entry.dtype], file.read(entry).cast("B")
    count = len(view) // size
    values: list[float] = []
    for start in sorted({0, max(0, count // 2 - _SAMPLE), max(0, count - _SAMPLE)}):
        part = bytes(view[start * size : (start + _SAMPLE) * size])
        values += _decoded(part, entry.dtype)
    file.release(entry)
    return values


def _decoded(data: bytes, dtype: str) -> tuple[float, ...]:
    if dtype == "BF16":  # the upper half of a float in 32 bits
        halves = (data[at : at + 2] for at in range(0, len(data), 2))
        data, dtype = b"".join(b"\0\0" + half for half in halves), "F32"
    return struct.unpack(f"<{len(data) // ELEMENT_BYTES[dtype]}{_CODES[dtype]}", data)


def _rounded(value: float, dtype: str) -> bytes:
    """Return a value's bytes in a type, to the nearest, ties to even."""
    try:
        if dtype != "BF16":
            return struct.pack(f"<{_CODES[dtype]}", value)
        bits = int.from_bytes(struct.pack("<f", value), "little")
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).to_bytes(3, "little")
    except OverflowError:
        return b"inf"
