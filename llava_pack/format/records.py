"""Frozen records to and from JSON values; reading collects every defect before it raises."""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

R = TypeVar("R")
MAX_INTEGER = 2**53


class Defects(list[str]):
    """What is wrong with a value, each line beginning with the path to the field."""

    def add(self, where: str, message: str) -> None:
        """Record one defect."""
        self.append(f"{where}: {message}" if where else message)


def summary(defects: Sequence[str], most: int = 20) -> str:
    """Return the first `most` defects, and how many more there are.

    >>> summary(["a: missing", "b: missing", "c: missing"], 2)
    'a: missing; b: missing; and 1 more'
    """
    more = len(defects) - most
    return "; ".join([*defects[:most], *([f"and {more} more"] if more > 0 else [])])


def decode(kind: type[R], value: Any, defects: Defects, where: str = "") -> R | None:
    """Return `value` as the dataclass `kind`, or None after recording each defect.

    Keys that the record does not have are ignored: a later writer may add some.

    Args:
        kind: a dataclass whose fields are str, int, bool, Literal, records, tuples and mappings
            of them, and unions with None; a field with a default may be absent.
        value: what JSON gave.
        defects: receives what is wrong.
        where: the path to the value, for the messages.
    """
    if not isinstance(value, dict):
        defects.add(where, f"expected an object, got {_name(value)}")
        return None
    before = len(defects)
    hints = typing.get_type_hints(kind)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        place = f"{where}.{field.name}" if where else field.name
        if field.name in value:
            found[field.name] = _read(hints[field.name], value[field.name], defects, place)
        elif field.default is dataclasses.MISSING:
            defects.add(place, "missing")
    return kind(**found) if len(defects) == before else None


def encode(record: Any) -> Any:
    """Return the JSON value of a record, a tuple, a mapping or a scalar."""
    if dataclasses.is_dataclass(record):
        return {f.name: encode(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {key: encode(item) for key, item in record.items()}
    if isinstance(record, tuple | list):
        return [encode(item) for item in record]
    return record


def _read(hint: Any, value: Any, defects: Defects, where: str) -> Any:
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return decode(hint, value, defects, where)  # type: ignore[arg-type]
    if origin in {typing.Union, types.UnionType}:
        inner = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else _read(inner, value, defects, where)
    if origin is tuple:
        if isinstance(value, list):
            places = ((f"{where}[{index}]", item) for index, item in enumerate(value))
            return tuple(_read(arguments[0], item, defects, place) for place, item in places)
        defects.add(where, f"expected a list, got {_name(value)}")
        return ()
    if origin is not None and origin is not Literal:
        if isinstance(value, dict):
            return {
                key: _read(arguments[1], item, defects, f"{where}.{key}")
                for key, item in value.items()
            }
        defects.add(where, f"expected an object, got {_name(value)}")
        return {}
    return _scalar(hint, value, defects, where)


def _scalar(hint: Any, value: Any, defects: Defects, where: str) -> Any:
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if type(value) is not type(choices[0]) or value not in choices:
            defects.add(where, f"expected one of {', '.join(map(str, choices))}, got {value!r:.80}")
    elif type(value) is not hint:
        defects.add(where, f"expected {_NAMES[hint]}, got {_name(value)}")
    elif hint is int and not 0 <= value <= MAX_INTEGER:
        defects.add(where, f"expected 0 to 2^53, got {value}")
    return value


_NAMES = {str: "text", int: "a whole number", bool: "true or false"}


def _name(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        float: "a decimal number",
        type(None): "null",
        **_NAMES,
    }
    return names[type(value)]
