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


def steps(pointer: str) -> tuple[str, ...]:
    """Return the keys of a pointer, outermost first.

    >>> steps("/a~1b/0")
    ('a/b', '0')
    """
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])


def value_at(document: Any, pointer: str) -> Any:
    """Return the value that `pointer` names, None where there is none."""
    for step in steps(pointer):
        if isinstance(document, dict):
            document = document.get(step)
        elif isinstance(document, list) and step.isdecimal() and int(step) < len(document):
            document = document[int(step)]
        else:
            return None
    return document


def replaced(data: bytes, changes: Iterable[tuple[str, str | None]]) -> bytes:
    """Return a JSON file with some values set, or removed where the new value is None.

    Raises:
        IntegrityError: it is not JSON, or has no place for the value.
    """
    document = canonical.loads(data, max_bytes=MAX_JSON_BYTES)
    for pointer, value in changes:
        *parents, last = pointer.rpartition("/")
        holder = value_at(document, parents[0])
        key = steps("/" + last)[0]
        if isinstance(holder, list) and key.isdecimal() and int(key) < len(holder):
            holder[int(key)] = value
        elif not isinstance(holder, dict):
            raise IntegrityError(f"no object holds {pointer}")
        elif value is None:
            holder.pop(key, None)
        else:
            holder[key] = value
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def installed_file(data: bytes, rules: Iterable[Rewrite], model_root: str) -> bytes:
    """Return a packed file as it stands after installation.

    Args:
        data: the file as packed.
        rules: those of its rewrites that have an `installed` value.
        model_root: the absolute model folder of the generation.

    Raises:
        IntegrityError: the file does not hold what a rule says that was packed.
    """
    document = canonical.loads(data, max_bytes=MAX_JSON_BYTES)
    changes = []
    for rule in rules:
        if rule.installed is None:
            continue
        if (packed := value_at(document, rule.pointer)) != rule.new:
            raise IntegrityError(
                f"{rule.pointer} expected {rule.new!r}, got {packed!r:.80}", subject=rule.path
            )
        changes.append((rule.pointer, model_root + rule.installed.removeprefix(MODEL_ROOT)))
    return replaced(data, changes)
