"""The records that a state dict's pickle is made of, and the only names that it may use.

Source: torch/_utils.py (arguments of the rebuild functions); torch/serialization.py (storages).
"""

from dataclasses import dataclass
from typing import Any

from llava_pack.checkpoint.tensors import checked_shape, checked_sizes
from llava_pack.format.errors import CheckpointError

STORAGE_TYPES = {
    "HalfStorage": "F16", "BFloat16Storage": "BF16", "FloatStorage": "F32",
    "DoubleStorage": "F64", "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16",
    "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip
_DTYPES = {
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
    "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
_UNTYPED = {("torch", "UntypedStorage"), ("torch.storage", "UntypedStorage")}
_ORDERED_DICT = ("collections", "OrderedDict")
_REBUILDERS = {
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor_v3"),
    ("torch._utils", "_rebuild_parameter"),
}


@dataclass(frozen=True, slots=True)
class Global:
    """A name from the table above; never looked up in Python."""

    module: str
    name: str

    @property
    def key(self) -> tuple[str, str]:
        """The pair that the tables are keyed by."""
        return (self.module, self.name)


@dataclass(frozen=True, slots=True)
class StorageRecord:
    """Bytes of the archive member `data/<key>`; `dtype` None where the tensor names it."""

    dtype: str | None
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A tensor over a storage; offset and strides count elements."""

    storage: StorageRecord
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def kind_of(value: object) -> str:
    """Return what a value is, for messages; never its contents, which may be endless."""
    if isinstance(value, Global):
        return f"reference to {value.module}.{value.name}"
    return {TensorRecord: "tensor", StorageRecord: "storage"}.get(type(value), type(value).__name__)


def is_known(name: Global) -> bool:
    """Say whether a state dict has a use for this name."""
    return (
        name.key == _ORDERED_DICT
        or name.key in _REBUILDERS
        or name.key in _UNTYPED
        or (name.module == "torch" and (name.name in STORAGE_TYPES or name.name in _DTYPES))
    )


def record_of(function: Global, arguments: tuple[Any, ...], subject: str) -> Any:
    """Return what a call of a known name stands for: an empty dict, or a tensor.

    Raises:
        CheckpointError: the name is none that a state dict calls.
        TypeError, ValueError, IndexError: the arguments do not fit; the caller reports damage.
    """
    if function.key == _ORDERED_DICT and not arguments:
        return {}
    if function.key in _REBUILDERS:
        return _tensor(function.name, arguments, subject)
    raise CheckpointError(
        f"a call to {function.module}.{function.name} is not allowed in a weight file; "
        "nothing of it was executed",
        subject=subject,
    )


def storage_of(value: Any, subject: str) -> StorageRecord:
    """Return the storage of `("storage", type, key, location, count)`."""
    if not isinstance(value, tuple) or len(value) != 5 or value[0] != "storage":
        raise TypeError("a persistent id that is not a storage")
    _, kind, key, _, count = value
    if not isinstance(kind, Global) or not isinstance(key, str) or type(count) is not int:
        raise TypeError("a storage without type, key and size")
    checked_shape([count], subject=subject, name=f"storage {key}")
    if kind.key in _UNTYPED:
        return StorageRecord(None, key, count)
    if kind.module != "torch" or kind.name not in STORAGE_TYPES:
        raise TypeError(f"a storage of type {kind.module}.{kind.name}")
    return StorageRecord(STORAGE_TYPES[kind.name], key, count)


def _tensor(function: str, arguments: tuple[Any, ...], subject: str) -> TensorRecord:
    """Return the tensor that a rebuild function's arguments describe."""
    if function == "_rebuild_parameter":
        if not arguments or not isinstance(arguments[0], TensorRecord):
            raise TypeError("a parameter without a tensor")
        return arguments[0]
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, StorageRecord):
        raise TypeError("a tensor without a storage")
    dtype = storage.dtype
    if function == "_rebuild_tensor_v3":
        named = arguments[6]
        if not isinstance(named, Global) or named.name not in _DTYPES:
            raise TypeError("a tensor without a type")
        dtype = _DTYPES[named.name]
    if dtype is None:
        raise TypeError("a tensor without a type")
    shape = checked_shape(shape, subject=subject, name="a tensor of the pickle")
    steps = checked_sizes(strides, subject=subject, name="a tensor's strides")
    if len(steps) != len(shape) or type(offset) is not int or offset < 0:
        raise TypeError("a tensor whose offset, shape and strides do not fit together")
    return TensorRecord(storage, dtype, offset, shape, steps)
