"""Values as JSON and back, as their types say: what one process of ours hands to another.

Both ends are of one version. A value that does not fit its type is an error and nothing is guessed,
for one of the two reads what strangers send.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from llava_pack.format.errors import ServeError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Return the JSON value of a dataclass and of what it holds."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(to_plain(item) for item in value)
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def from_plain(kind: type[T], value: Any) -> T:
    """Return the value again.

    Args:
        kind: a dataclass whose fields are scalars, Path, Literal, other dataclasses, tuples,
            frozensets and mappings of them, and unions with None.
        value: what JSON gave.

    Raises:
        ServeError: it does not fit.

    >>> from_plain(tuple[Path, ...], ["/a"])[0].as_posix()
    '/a'
    """
    result: T = _read(kind, value)
    return result


def _read(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _record(hint, value)
    if origin in {typing.Union, types.UnionType}:
        inner = next(one for one in arguments if one is not types.NoneType)
        return None if value is None else _read(inner, value)
    if origin is Literal:
        return _known(value in arguments, hint, value)
    if origin in {tuple, frozenset}:
        return origin(_read(arguments[0], item) for item in _known(_is(list, value), hint, value))
    if origin is not None and issubclass(origin, Mapping):
        pairs = _known(_is(dict, value), hint, value).items()
        return {arguments[0](key): _read(arguments[1], item) for key, item in pairs}
    return _scalar(hint, value)


def _record(kind: Any, value: Any) -> Any:
    hints = _hints(kind)
    if not isinstance(value, dict) or value.keys() != hints.keys():
        raise ServeError(f"another process sent a {kind.__name__} with missing fields")
    return kind(**{name: _read(hint, value[name]) for name, hint in hints.items()})


def _scalar(hint: Any, value: Any) -> Any:
    if hint is Path:
        return Path(_known(_is(str, value), hint, value))
    if hint is float:
        return float(_known(_is(int, value) or _is(float, value), hint, value))
    return _known(_is(hint, value), hint, value)


def _is(kind: type, value: Any) -> bool:
    return type(value) is kind  # True is no number


def _known(fits: bool, hint: Any, value: Any) -> Any:  # noqa: FBT001 - what was found out
    if not fits:
        name = getattr(hint, "__name__", str(hint))
        raise ServeError(f"another process sent {type(value).__name__}, expected {name}")
    return value


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}
