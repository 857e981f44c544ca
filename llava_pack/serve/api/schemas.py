"""JSON Schemas as an answer is held to them: an object has the properties that are named. Pure.

By the standard an object may have any others beside, so a small model goes on inventing some until
its tokens are used up. Whoever names properties means those; who wants more says so.

Source: JSON Schema 2020-12, core, 10.3.2; OpenAI API reference, "Structured outputs".
"""

from collections.abc import Iterator, Mapping
from typing import Any

_WHOLES = frozenset({"allOf", "if", "dependentSchemas", "unevaluatedProperties"})
"""Where a schema is one of several that hold at once, what it does not name another one may."""
_BRANCHES = frozenset({"anyOf", "oneOf", "$ref"})
_OF_OBJECTS = frozenset({"properties", "patternProperties", "required"})
"""Beside branches these hold at once with each of them."""
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_NOT_SCHEMAS = ("const", "enum", "default", "examples")


def closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema whose objects have no properties but those that are named.

    >>> closed({"properties": {"a": {}}})["additionalProperties"]
    False
    >>> closed({"properties": {"a": {}}, "additionalProperties": True})["additionalProperties"]
    True
    >>> "additionalProperties" in closed({"type": "object"})
    False
    """
    if any(_is_one_of_several(one) for one in _schemas(schema)):
        return schema
    whole: Mapping[str, Any] = _closed(schema)
    return whole


def _is_one_of_several(schema: Mapping[str, Any]) -> bool:
    words = schema.keys()
    return bool(words & _WHOLES or (words & _BRANCHES and words & _OF_OBJECTS))


def _schemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Yield a schema and all those in it, without what is a value or a client's own name."""
    left = [schema]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left.extend(one)
        elif isinstance(one, Mapping):
            yield one
            for name, value in one.items():
                if name in _NAMED and isinstance(value, Mapping):
                    left.extend(value.values())
                elif name not in _NOT_SCHEMAS:
                    left.append(value)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    inner = {
        name: value if name in _NOT_SCHEMAS else _members(name, value)
        for name, value in schema.items()
    }
    if isinstance(schema.get("properties"), Mapping) and schema["properties"]:
        inner.setdefault("additionalProperties", "patternProperties" in schema)
    return inner


def _members(name: str, value: Any) -> Any:
    """Return the value of a keyword; below some of them, names are the client's own."""
    if name in _NAMED and isinstance(value, Mapping):
        return {key: _closed(one) for key, one in value.items()}
    return _closed(value)
