"""Files as `torch.save` writes them, made without torch; and anything that is not quite one.

Source: torch/serialization.py, `_save`; Python `pickletools` for the opcodes.
"""

import math
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_pack.checkpoint.tensors import ELEMENT_BYTES, row_strides

STORAGE_NAMES = {
    "F16": "HalfStorage",
    "BF16": "BFloat16Storage",
    "F32": "FloatStorage",
    "F64": "DoubleStorage",
    "I64": "LongStorage",
    "I32": "IntStorage",
    "I8": "CharStorage",
    "U8": "ByteStorage",
    "BOOL": "BoolStorage",
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor to save: type, shape and its bytes, row by row."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def text(value: str) -> bytes:
    """Return the opcode that pushes a text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """Return the opcode that pushes an int."""
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def group(items: Iterable[bytes]) -> bytes:
    """Return the opcodes that push a tuple of already encoded items."""
    return b"(" + b"".join(items) + b"t"


def name(module: str, attribute: str) -> bytes:
    """Return the opcode that pushes a global."""
    return f"c{module}\n{attribute}\n".encode()


EMPTY_ORDERED_DICT = name("collections", "OrderedDict") + b")R"


def storage(dtype: str, key: str, count: int) -> bytes:
    """Return the opcodes that push a storage."""
    parts = (text("storage"), name("torch", STORAGE_NAMES[dtype]), text(key), text("cpu"))
    return group([*parts, number(count)]) + b"Q"


def tensor(
    dtype: str,
    key: str,
    count: int,
    shape: tuple[int, ...],
    *,
    offset: int = 0,
    strides: tuple[int, ...] | None = None,
) -> bytes:
    """Return the opcodes that push a tensor over a storage."""
    steps = row_strides(shape) if strides is None else strides
    arguments = (
        storage(dtype, key, count),
        number(offset),
        group(number(size) for size in shape),
        group(number(step) for step in steps),
        b"\x89",
        EMPTY_ORDERED_DICT,
    )
    return name("torch._utils", "_rebuild_tensor_v2") + group(arguments) + b"R"


def state_dict(values: Mapping[str, bytes]) -> bytes:
    """Return a whole pickle of a dict of already encoded values."""
    items = b"".join(text(key) + value for key, value in values.items())
    return b"\x80\x02" + EMPTY_ORDERED_DICT + b"(" + items + b"u."


def save_program(
    path: Path,
    program: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    compression: int = zipfile.ZIP_STORED,
    byte_order: bytes = b"little",
    extra: Mapping[str, bytes] | None = None,
) -> Path:
    """Write any pickle in a torch archive, with the storages that it may name."""
    root = path.stem
    members = {
        f"{root}/data.pkl": program,
        f"{root}/byteorder": byte_order,
        **{f"{root}/data/{key}": data for key, data in (storages or {}).items()},
        f"{root}/version": b"3\n",
        **(extra or {}),
    }
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(member), data, compress_type=compression)
    return path


def save(path: Path, tensors: Mapping[str, Stored]) -> Path:
    """Write tensors as `torch.save(state_dict, path)` does."""
    values = {
        key: tensor(item.dtype, str(place), math.prod(item.shape), item.shape)
        for place, (key, item) in enumerate(tensors.items())
    }
    for item in tensors.values():
        assert len(item.data) == math.prod(item.shape) * ELEMENT_BYTES[item.dtype]
    storages = {str(place): item.data for place, item in enumerate(tensors.values())}
    return save_program(path, state_dict(values), storages)
