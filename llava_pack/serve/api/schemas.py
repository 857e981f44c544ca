"""JSON Schemas as an answer is held to them: an object has the properties that are named. Pure.

By the standard an object may have any others beside, so a small model goes on inventing some until
its tokens are used up. Whoever names properties means those; who wants more says so.

Source: JSON Schema 2020-12, core, 10.3.2; OpenAI API reference, "Structured outputs".
"""

import json
from collections.abc import Mapping
from typing import Any

_WHOLES = ("allOf", "if", "dependentSchemas", "unevaluatedProperties")
"""Where a schema is one of several that hold at once, what it does not name another one may."""
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
    text = json.dumps(schema)
    if any(f'"{word}":' in text for word in _WHOLES):
        return schema
    whole: Mapping[str, Any] = _closed(schema)
    return whole


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
        free = "patternProperties" in schema or "$ref" in schema
        inner.setdefault("additionalProperties", free)
    return inner


def _members(name: str, value: Any) -> Any:
    """Return the value of a keyword; below some of them, names are the client's own."""
    if name in _NAMED and isinstance(value, Mapping):
        return {key: _closed(one) for key, one in value.items()}
    return _closed(value)
