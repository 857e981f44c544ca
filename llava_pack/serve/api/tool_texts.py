"""Calls of tools and their results, as the text that a model reads of them.

No model here was trained to call a tool. What a history tells of calls and results is text like
any other: no template's token is in it.

Source: NousResearch/Hermes-Function-Calling, and the chat template of Qwen2.5, for the words.
"""

import json
from collections.abc import Sequence
from typing import Any, TypeVar

Part = TypeVar("Part")
_RESULT, _RESULT_END = "<tool_response>", "</tool_response>"


def call_text(name: str, arguments: Any, *, read: bool = True) -> str:
    r"""Return the text of a call.

    Args:
        name: of the tool.
        arguments: an object, or JSON of one; another text stays one.
        read: whether JSON is read; else it stays the text that it is.

    >>> call_text("add", '{"a": 1}')
    '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    """
    call = json.dumps(
        {"name": name, "arguments": _object(arguments, read=read)}, ensure_ascii=False
    )
    whole = call.encode(errors="replace").decode()  # JSON can spell halves of characters
    return f"<tool_call>\n{whole}\n</tool_call>"


def result_parts(parts: Sequence[str | Part]) -> tuple[str | Part, ...]:
    """Return what a tool answered as a person's turn: its pictures, and its texts as one."""
    pictures = [part for part in parts if not isinstance(part, str)]
    texts = [part for part in parts if isinstance(part, str)]
    return (*pictures, _RESULT, *texts, _RESULT_END)


def _object(arguments: Any, *, read: bool) -> Any:
    if not isinstance(arguments, str):
        return {} if arguments is None else arguments
    if not read:
        return arguments
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
