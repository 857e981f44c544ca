"""What is wrong with a request's body, in words: the field once, what was expected, what came.

The words are ours, whatever checks the body. What was sent is shown in part only, for it may be
long, and logs keep what clients print.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from llava_pack.format.text import visible

_SHOWN = 40
_LARGE = 10**_SHOWN
_WRONG = "wrong"
_JSON = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list"}
# By pydantic's own types of errors. Source: pydantic-core src/errors/types.rs.
_WORDS = {
    "missing": "is missing",
    "string_type": "expected a text, got {got}",
    "string_unicode": "expected Unicode, got half of a surrogate pair",
    "int": "expected a whole number, got {got}",
    "float": "expected a number, got {got}",
    "finite_number": "expected a finite number",
    "bool": "expected true or false, got {got}",
    "list_type": "expected a list, got {got}",
    "dict_type": "expected an object, got {got}",
    "literal_error": "expected {expected}, got {got}",
    "greater_than": "expected more than {gt}, got {got}",
    "greater_than_equal": "expected at least {ge}, got {got}",
    "less_than": "expected less than {lt}, got {got}",
    "less_than_equal": "expected at most {le}, got {got}",
    "too_short": "expected a list of {min_length} or more",
    "too_long": "expected a list of {max_length} or fewer",
    "string_too_short": "expected a text of {min_length} or more characters",
    "string_too_long": "expected a text of {max_length} or fewer characters",
    "value_error": "{error}",
    _WRONG: "{words}",
}
_ALIKE = {
    "int_type": "int", "int_parsing": "int", "int_parsing_size": "int", "int_from_float": "int",
    "float_type": "float", "float_parsing": "float", "bool_type": "bool", "bool_parsing": "bool",
    "tuple_type": "list_type", "mapping_type": "dict_type", "model_type": "dict_type",
    "model_attributes_type": "dict_type", "string_sub_type": "string_type",
}  # fmt: skip


def wrong(words: str, below: str = "") -> PydanticCustomError:
    """Return the error that a check of our own raises while a body is read.

    Args:
        words: what is wrong, without the field's name; the reader sees them as they are.
        below: the field, from where the check stands: nothing, or `image_url` or `a.b`.
    """
    return PydanticCustomError(_WRONG, "{words}", {"words": words, "below": below})


def got(value: Any) -> str:
    """Return what came instead, in words, and short.

    >>> got(None), got([1]), got("x" * 99)
    ('nothing', 'a list', 'a text')
    """
    return "nothing" if value is None else _JSON.get(type(value), "an object")


def problem(error: Mapping[str, Any], body: Any) -> tuple[str, str]:
    """Return the field that is wrong, with dots, and the words for it.

    Args:
        error: as pydantic tells it.
        body: what was sent, as JSON.
    """
    how = error.get("ctx", {})
    kind = str(error["type"])
    place = _place(error, body)
    if below := how.get("below"):
        place = [*place, below]
    words = _WORDS.get(_ALIKE.get(kind, kind), "is not valid here")
    return (
        visible(".".join(map(str, place))),
        visible(words.format_map({**how, "got": _shown(error.get("input"))})),
    )


def renamed(place: str, names: Mapping[str, str]) -> str:
    """Return a field as the client wrote it, who asked in another dialect.

    Args:
        place: the field of a chat completion, with dots.
        names: what fields of a chat completion are there; the longest one that fits counts.

    >>> renamed("messages.1.role", {"messages": "input", "messages.1": "input.0"})
    'input.0.role'
    >>> renamed("seed", {"messages": "input"})
    'seed'
    """
    steps = place.split(".")
    for count in range(len(steps), 0, -1):
        name = names.get(".".join(steps[:count]))
        if name is not None:
            return ".".join((name, *steps[count:]))
    return place


def _place(error: Mapping[str, Any], body: Any) -> list[str | int]:
    """Return the steps to a field as the client wrote them: no names of ours are among them."""
    where, *steps = error["loc"]
    if where != "body":
        return [where, *steps]
    place: list[str | int] = []
    value = body
    for index, step in enumerate(steps):
        if isinstance(value, (dict, list)) and _has(value, step):
            value = value[step]
        elif error["type"] != "missing" or index < len(steps) - 1:
            continue
        place.append(step)
    return place


def _has(value: dict[str, Any] | list[Any], step: Any) -> bool:
    if isinstance(value, list):
        return isinstance(step, int) and step < len(value)
    return step in value


def _shown(value: Any) -> str:
    """Return what came: a number or a short text as it is, of all else what it is."""
    short = isinstance(value, str) and len(value) <= _SHOWN
    if short or isinstance(value, (bool, float)) or (type(value) is int and abs(value) < _LARGE):
        return json.dumps(value, ensure_ascii=False)
    return got(value)
