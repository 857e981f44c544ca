"""Single values of a configuration, each held against what it can be."""

import math
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from llava_pack.checkpoint.defects import shown
from llava_pack.format.errors import CheckpointError

T = TypeVar("T", bound=str)
MAX_SIZE = 1 << 24
_LEAST, _MOST = 1e-12, 1e12
ACTIVATIONS = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu")
MAX_LAYERS = 1000


def refusal(message: str, *, hint: str = "", subject: str = "config.json") -> CheckpointError:
    """Return the error of a configuration's value."""
    return CheckpointError(message, subject=subject, hint=hint)


def size(
    config: Mapping[str, Any], key: str, default: int | None = None, *, most: int = MAX_SIZE
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


def is_number(value: object, least: float = -math.inf, most: float = math.inf) -> bool:
    """Return whether a value is a finite number that a float can hold, from least to most.

    >>> is_number(1), is_number(0.5, 0, 1), is_number(10**400), is_number(math.nan), is_number(True)
    (True, True, False, False, False)
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value) and least <= value <= most
    except OverflowError:  # JSON has integers of any length
        return False


def number(config: Mapping[str, Any], key: str) -> float:
    """Return a positive number.

    Raises:
        CheckpointError: it is none, or so large or small that sums with it have no result.
    """
    value: Any = config.get(key)
    if not is_number(value, _LEAST, _MOST):
        raise refusal(f"{key} is {shown(value)}, expected a number above 0, at most {_MOST:g}")
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
