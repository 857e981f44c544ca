"""A safetensors file whose header is written last, into space that was kept free for it.

What quantizing gives is known in names and types, but not to the byte before it is done: the
state of a tensor is text. A header may end in spaces, so an upper bound of its size is enough.

Source: huggingface/safetensors README, "Format" (padding with spaces; no gaps between tensors).
"""

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from llava_pack.checkpoint.safetensors_file import render_header
from llava_pack.checkpoint.tensors import ELEMENT_BYTES, TensorEntry

_LENGTH_BYTES = 8
_ENTRY_BYTES = 160
"""Upper bound of an entry beside its name: type, shape of few dimensions, two offsets."""
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class Written:
    """A tensor as it was written, with the CRC-32 of its bytes."""

    entry: TensorEntry
    crc: int


def reserved_bytes(names: Iterable[str]) -> int:
    """Return the space that a header of these tensors never exceeds, length included.

    >>> reserved_bytes(["a", "b"])
    512
    """
    total = 2 * 64 + sum(
        len(json.dumps(name, ensure_ascii=False).encode()) + _ENTRY_BYTES for name in names
    )
    return -(-total // 64) * 64


class LateHeaderWriter:
    """Writes tensors as they come; those that would misalign the next wait for the end.

    Args:
        out: seekable, at its beginning.
        names: every tensor that will come.
    """

    def __init__(self, out: BinaryIO, names: list[str]) -> None:
        self._out = out
        self._reserved = reserved_bytes(names)
        self._written: list[Written] = []
        self._waiting: list[tuple[TensorEntry, bytes]] = []
        out.write(b" " * self._reserved)

    def add(self, entry: TensorEntry, data: memoryview) -> None:
        """Write one tensor, or keep a small odd one for the end."""
        if entry.size_bytes % _ALIGNMENT:
            self._waiting.append((entry, bytes(data)))
        else:
            self._write(entry, data)

    def finish(self) -> list[Written]:
        """Write what waits and the header, and return the tensors in the order of their bytes."""
        for entry, data in sorted(self._waiting, key=lambda one: -ELEMENT_BYTES[one[0].dtype]):
            self._write(entry, memoryview(data))
        text = render_header(one.entry for one in self._written)[_LENGTH_BYTES:]
        length = self._reserved - _LENGTH_BYTES
        if len(text) > length:
            raise ValueError(f"a header of {len(text)} bytes, {length} were reserved")
        self._out.seek(0)
        self._out.write(length.to_bytes(_LENGTH_BYTES, "little") + text.ljust(length))
        return self._written

    def _write(self, entry: TensorEntry, data: memoryview) -> None:
        self._out.write(data)
        self._written.append(Written(entry, zlib.crc32(data)))
