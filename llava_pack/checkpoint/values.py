"""Single values of a configuration, each held against what it can be."""

import math
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from llava_pack.checkpoint.defects import shown
from llava_pack.format.errors import CheckpointError

T = TypeVar("T", bound=str)
_MAX_SIZE = 1 << 24
ACTIVATIONS = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu")
MAX_LAYERS = 1000


def refusal(message: str, *, hint: str = "", subject: str = "config.json") -> CheckpointError:
    """Return the error of a configuration's value."""
    return CheckpointError(message, subject=subject, hint=hint)


def size(
    config: Mapping[str, Any], key: str, default: int | None = None, *, most: int = _MAX_SIZE
) -> int:
    """Return a size from a configuration.

    Raises:
        CheckpointError: it is absent without a default, or no sensible number.
    """
    value = config.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 0 < value <= most:
        raise refusal(f"{key} is {shown(value)}, expected a size between 1 and {most}")
    return value


def number(config: Mapping[str, Any], key: str) -> float:
    """Return a positive number.

    Raises:
        CheckpointError: it is none.
    """
    value: Any = config.get(key)
    if type(value) not in (int, float) or not (math.isfinite(value) and value > 0):
        raise refusal(f"{key} is {shown(value)}, expected a number above 0")
    return float(value)


def flag(config: Mapping[str, Any], key: str) -> bool:
    """Return a truth value.

    Raises:
        CheckpointError: it is none.
    """
    value = config.get(key)
    if not isinstance(value, bool):
        raise refusal(f"{key} is {shown(value)}, expected true or false")
    return value


def choice(key: str, value: object, names: Collection[T], *, hint: str = "") -> T:
    """Return one of several names.

    Raises:
        CheckpointError: it is another.
    """
    for name in names:
        if name == value:
            return name
    raise refusal(f"{key} is {shown(value)}, expected one of: {', '.join(names)}", hint=hint)
