"""JSON pointers, and the change of one value in a published JSON file.

Source: RFC 6901 for pointers; the layout of the text is the one of published configs: two spaces,
keys in their order, one final newline.
"""

import json
from collections.abc import Iterable
from typing import Any

from llava_pack.format import canonical
from llava_pack.format.errors import IntegrityError
from llava_pack.format.manifest import MODEL_ROOT, Rewrite

MAX_JSON_BYTES = 64 * 1024 * 1024


def value_at(document: Any, pointer: str) -> Any:
    """Return the value that `pointer` names, None where there is none.

    >>> value_at({"a/b": [1, 2]}, "/a~1b/1")
    2
    """
    for step in pointer.split("/")[1:]:
        key = _key(document, step)
        if isinstance(document, dict):
            document = document.get(key)
        else:
            document = document[key] if isinstance(key, int) else None
    return document


def replaced(data: bytes, changes: Iterable[tuple[str, str | None]]) -> bytes:
    """Return a JSON file with some values set, or removed where the new value is None.

    Raises:
        IntegrityError: it is not JSON, or has no place for the value.
    """
    document = canonical.loads(data, max_bytes=MAX_JSON_BYTES)
    for pointer, value in changes:
        parent, _, last = pointer.rpartition("/")
        holder = value_at(document, parent)
        key = _key(holder, last)
        if key is None:
            raise IntegrityError(f"no object holds {pointer}")
        if value is None and isinstance(holder, dict):
            holder.pop(key, None)
        else:
            holder[key] = value
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def _key(holder: Any, step: str) -> str | int | None:
    if isinstance(holder, list) and step.isdecimal() and int(step) < len(holder):
        return int(step)
    return step.replace("~1", "/").replace("~0", "~") if isinstance(holder, dict) else None


def installed_file(data: bytes, rules: Iterable[Rewrite], model_root: str) -> bytes:
    """Return a packed file as it stands after installation.

    Raises:
        IntegrityError: the file does not hold what a rule says that was packed.
    """
    document = canonical.loads(data, max_bytes=MAX_JSON_BYTES)
    changes = []
    for rule in rules:
        if rule.installed is None:
            continue
        if (packed := value_at(document, rule.pointer)) != rule.new:
            message = f"{rule.pointer}: expected {rule.new!r}, got {packed!r:.80}"
            raise IntegrityError(message, subject=rule.path)
        changes.append((rule.pointer, model_root + rule.installed.removeprefix(MODEL_ROOT)))
    return replaced(data, changes)
