"""What every weight file holds: named tensors of a known type, shape and place."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llava_pack.format.errors import CheckpointError

ELEMENT_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""Bytes of one element by type name. Source: safetensors format, "dtype"."""

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of elements that a model is loaded from."""
MAX_RANK = 16
MAX_ELEMENTS = 1 << 48
_ONE = (1, 1, 1)
"""The axis of a tensor that has none: size, and strides."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a weight file.

    `offset_bytes` counts from the start of the file. `strides` counts elements, and is None where
    the elements lie in the file as they are written: row by row, without a gap.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int = 0
    strides: tuple[int, ...] | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor when it is written row by row."""
        return math.prod(self.shape) * ELEMENT_BYTES[self.dtype]


class TensorFile(Protocol):
    """An open weight file; entries are in the file's own order, names are unique."""

    @property
    def path(self) -> Path:
        """Where the file is."""

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """Every tensor of the file."""

    def read(self, entry: TensorEntry) -> memoryview:
        """Return the tensor's bytes, little-endian, row by row; without a copy where it can."""

    def verify(self, entry: TensorEntry) -> None:
        """Hold the tensor's bytes against the file's own checksum, where it has one."""

    def release(self, entry: TensorEntry) -> None:
        """Let the system take back the memory that reading `entry` brought in."""

    def close(self) -> None:
        """Give the file back; views that were handed out stay valid."""


def checked_sizes(numbers: object, *, subject: str, name: str) -> tuple[int, ...]:
    """Return `numbers` as a short tuple of non-negative integers.

    Raises:
        CheckpointError: it is something else.
    """
    if not isinstance(numbers, (list, tuple)) or len(numbers) > MAX_RANK:
        raise CheckpointError(
            f"{name} has an invalid shape, expected a list of at most {MAX_RANK} numbers",
            subject=subject,
        )
    for number in numbers:
        if type(number) is not int or not 0 <= number <= MAX_ELEMENTS:
            got = number if type(number) is int else f"a {type(number).__name__}"
            raise CheckpointError(f"{name} has an invalid dimension, got {got}", subject=subject)
    return tuple(numbers)


def checked_shape(numbers: object, *, subject: str, name: str) -> tuple[int, ...]:
    """Return `numbers` as a shape.

    Raises:
        CheckpointError: it is none, or claims more elements than any tensor has.
    """
    shape = checked_sizes(numbers, subject=subject, name=name)
    if math.prod(shape) > MAX_ELEMENTS:
        raise CheckpointError(
            f"{name} claims {math.prod(shape)} elements, more than any tensor has",
            subject=subject,
        )
    return shape


def row_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of a tensor written row by row.

    >>> row_strides((2, 3, 4))
    (12, 4, 1)
    """
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def is_row_by_row(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Say whether `strides` describe a tensor without gaps; dimensions of one element never matter.

    >>> is_row_by_row((1, 3), (99, 1)), is_row_by_row((3, 2), (1, 3))
    (True, False)
    """
    return 0 in shape or all(
        size == 1 or stride == expected
        for size, stride, expected in zip(shape, strides, row_strides(shape), strict=True)
    )


def gathered(view: memoryview, entry: TensorEntry) -> memoryview:
    """Return a strided tensor's elements row by row, in a buffer of their own.

    Args:
        view: bytes from the tensor's first element to the end of its storage.
        entry: its strides are set.
    """
    strides = entry.strides or row_strides(entry.shape)
    size = ELEMENT_BYTES[entry.dtype]
    cells = _cells(view[: len(view) // size * size], size)
    out = bytearray(entry.size_bytes)
    if not out:
        return memoryview(out)
    target = _cells(memoryview(out), size)
    axes = list(zip(entry.shape, strides, row_strides(entry.shape), strict=True))
    # one axis is copied at a time: the longest, so that as few copies as can be are made
    count, step, gap = axes.pop(max(range(len(axes)), key=lambda at: axes[at][0])) if axes else _ONE
    for start, place in _starts(axes):
        line = cells[start : start + (count - 1) * step + 1 : step or 1]
        if step == 0:  # as after `expand`: one element, again and again
            line = _cells(memoryview(bytes(line) * count), size)
        target[place : place + (count - 1) * gap + 1 : gap] = line
    return memoryview(out)


def _cells(view: memoryview, size: int) -> memoryview:
    flat = view.cast("B")
    if size == 1:
        return flat
    return flat.cast("H") if size == 2 else flat.cast("I") if size == 4 else flat.cast("Q")


def _starts(axes: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """Yield, for each place on some axes, where it is among the cells and in the result.

    Args:
        axes: of each its size, its stride among the cells, and its stride in the result.
    """
    for places in itertools.product(*(range(size) for size, _, _ in axes)):
        steps = list(zip(places, axes, strict=True))
        yield sum(at * axis[1] for at, axis in steps), sum(at * axis[2] for at, axis in steps)
