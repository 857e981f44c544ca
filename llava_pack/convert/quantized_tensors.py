"""One tensor in bitsandbytes' formats: nf4 with double quantization, and int8 by rows.

Codes and scales are those of bitsandbytes' own functions, computed in blocks on several threads;
every sum is done by one thread, so that the bytes do not depend on the number of cores.

Source: bitsandbytes functional.py quantize_4bit, nn/modules.py (Params4bit, Int8Params: names and
types of what is saved).
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.convert.late_header import reserved_bytes
from llava_pack.convert.shards import SourceTensor

if TYPE_CHECKING:
    import torch

_BLOCK, _NESTED_BLOCK = 64, 256
_STATE_BYTES = 512
"""Upper bound of the text that describes a tensor's nf4 state."""
_CHUNK_ELEMENTS = 1 << 18
"""What one thread quantizes at a time: a multiple of the block that a core's cache holds."""
_FLOATS = {"F64", "F32", "F16", "BF16"}

Made = Iterator[tuple[TensorEntry, memoryview]]


@dataclass(frozen=True, slots=True)
class Group:
    """One source tensor and what it becomes: sizes are upper bounds, `make` gives the bytes."""

    planned: tuple[TensorEntry, ...]
    make: Callable[[], Made]
    source: SourceTensor

    @property
    def size_bytes(self) -> int:
        """Upper bound of its bytes in a file, header included."""
        sizes = sum(entry.size_bytes for entry in self.planned)
        return sizes + reserved_bytes(entry.name for entry in self.planned)


def kept(tensor: SourceTensor, dtype: str) -> Group:
    """Return the group of a tensor that is written as it is, floats in a type."""
    entry = tensor.entry
    made = TensorEntry(entry.name, dtype if entry.dtype in _FLOATS else entry.dtype, entry.shape)
    return Group((made,), lambda: _kept(tensor, made), tensor)


def nf4(tensor: SourceTensor, dtype: str, pool: ThreadPoolExecutor) -> Group:
    """Return the group of a linear's weight in nf4, quantized from a type."""
    return Group(_nf4_plan(tensor.entry), lambda: _nf4(tensor, dtype, pool), tensor)


def int8(tensor: SourceTensor, dtype: str, pool: ThreadPoolExecutor) -> Group:
    """Return the group of a linear's weight in int8, quantized from a type."""
    return Group(_int8_plan(tensor.entry), lambda: _int8(tensor, dtype, pool), tensor)


def _kept(tensor: SourceTensor, entry: TensorEntry) -> Made:
    if tensor.entry.dtype == entry.dtype:
        yield entry, tensor.read()
    else:
        yield entry, as_bytes(loaded(tensor, entry.dtype))


def _nf4_plan(entry: TensorEntry) -> tuple[TensorEntry, ...]:
    name, count = entry.name, math.prod(entry.shape)
    blocks = -(-count // _BLOCK)
    return (
        TensorEntry(f"{name}.nested_absmax", "F32", (-(-blocks // _NESTED_BLOCK),)),
        TensorEntry(f"{name}.nested_quant_map", "F32", (256,)),
        TensorEntry(f"{name}.quant_map", "F32", (16,)),
        TensorEntry(name, "U8", (-(-count // 2), 1)),
        TensorEntry(f"{name}.absmax", "U8", (blocks,)),
        TensorEntry(f"{name}.quant_state.bitsandbytes__nf4", "U8", (_STATE_BYTES,)),
    )


def _nf4(tensor: SourceTensor, dtype: str, pool: ThreadPoolExecutor) -> Made:
    import torch
    from bitsandbytes import functional

    def block(part: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
        codes, state = functional.quantize_4bit(part, blocksize=_BLOCK, quant_type="nf4")
        return codes, state.absmax

    weight = loaded(tensor, dtype)
    made = list(pool.map(block, torch.split(weight.reshape(-1), _CHUNK_ELEMENTS)))
    absmax = torch.cat([scale for _, scale in made])
    offset = absmax.mean()
    scales, nested = functional.quantize_blockwise(absmax - offset, blocksize=_NESTED_BLOCK)
    state = functional.QuantState(
        absmax=scales,
        shape=weight.shape,
        code=functional.get_4bit_type("nf4", device="cpu"),
        blocksize=_BLOCK,
        quant_type="nf4",
        dtype=weight.dtype,
        offset=offset,
        state2=nested,
    )
    packed: dict[str, torch.Tensor] = {"": torch.cat([codes for codes, _ in made])}
    packed |= {f".{key}": value for key, value in state.as_dict(packed=True).items()}
    for planned in _nf4_plan(tensor.entry):
        value = packed[planned.name.removeprefix(tensor.entry.name)]
        yield TensorEntry(planned.name, planned.dtype, tuple(value.shape)), as_bytes(value)


def _int8_plan(entry: TensorEntry) -> tuple[TensorEntry, ...]:
    stem = entry.name.removesuffix("weight")
    return (
        TensorEntry(f"{stem}SCB", "F32", entry.shape[:1]),
        TensorEntry(entry.name, "I8", entry.shape),
        TensorEntry(f"{stem}weight_format", "U8", ()),
    )


def _int8(tensor: SourceTensor, dtype: str, pool: ThreadPoolExecutor) -> Made:
    import torch
    from bitsandbytes import functional

    def rows(part: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
        codes, scales, _ = functional.int8_vectorwise_quant(part)
        return codes, scales

    weight = loaded(tensor, dtype).to(torch.float16)
    made = list(pool.map(rows, torch.split(weight, max(1, _CHUNK_ELEMENTS // weight.shape[1]))))
    values = (
        torch.cat([scales for _, scales in made]),
        torch.cat([codes for codes, _ in made]),
        torch.tensor(0, dtype=torch.uint8),  # "row"
    )
    for planned, value in zip(_int8_plan(tensor.entry), values, strict=True):
        yield planned, as_bytes(value)


def float_types() -> "dict[str, torch.dtype]":
    """Return torch's types by the names that files have for them."""
    import torch

    return {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
    }


def loaded(tensor: SourceTensor, dtype: str) -> "torch.Tensor":
    """Return a tensor in a type, straight from the mapped file where it has that type."""
    import torch

    types = float_types()
    found = torch.frombuffer(tensor.read(), dtype=types[tensor.entry.dtype])
    return found.reshape(tensor.entry.shape).to(types[dtype])


def as_bytes(value: "torch.Tensor") -> memoryview:
    """Return a tensor's bytes, row by row."""
    import torch

    flat = value.contiguous().reshape(-1)
    values: Any = flat.view(torch.uint8).numpy()
    return memoryview(values)
