"""Jinja as transformers sets it up for chat templates, with a limit on the work of one rendering.

A template is a program that came with a checkpoint: it runs in Jinja's sandbox, which gives it
nothing but the conversation, and is stopped where it runs without end.

Source: transformers utils/chat_template_utils.py (trimmed blocks, loop controls, the `generation`
tag, `raise_exception`, `strftime_now`, `tojson` without HTML).
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache, lru_cache
from types import FrameType
from typing import Any

from llava_pack.format.errors import CheckpointError, reason_of

MAX_TEMPLATE_CHARS = 1 << 17
_MAX_STEPS = 2_000_000
_MAX_SIZE = 1_000_000


def rendered(text: str, values: Mapping[str, Any]) -> str:
    """Return what a template makes of some values.

    Raises:
        CheckpointError: it is no template, raises an error of its own, or does not end.
    """
    if len(text) > MAX_TEMPLATE_CHARS:
        raise CheckpointError(
            f"has {len(text)} characters, expected at most {MAX_TEMPLATE_CHARS}",
            subject="chat_template",
        )
    try:
        template = _compiled(text)
        with _limited_steps():
            return str(template.render(**values))
    except CheckpointError:
        raise
    except Exception as error:  # whatever a program from outside does
        raise CheckpointError(reason_of(error), subject="chat_template") from error


@contextmanager
def _limited_steps() -> Iterator[None]:
    """Stop what runs in the block, in this thread, after so many lines of Python."""
    left = _MAX_STEPS

    def step(_frame: FrameType, _event: str, _arg: Any) -> Callable[..., Any]:
        nonlocal left
        left -= 1
        if left < 0:
            raise CheckpointError("runs without end", subject="chat_template")
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        yield
    finally:
        sys.settrace(before)


@lru_cache(maxsize=8)
def _compiled(text: str) -> Any:
    return _environment().from_string(text)


@cache
def _environment() -> Any:
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(Extension):
        """`{% generation %}` marks what a model is trained on; here it only holds its body."""

        tags = {"generation"}  # noqa: RUF012 - the base class declares it

        def parse(self, parser: Any) -> list[nodes.Node]:
            next(parser.stream)
            return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))

    class Sandbox(ImmutableSandboxedEnvironment):
        """The sandbox, in which no product is large."""

        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" or _size(left) * _size(right) > _MAX_SIZE:
                raise SecurityError(f"{operator} of such values is not allowed")
            return super().call_binop(context, operator, left, right)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    sandbox = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    sandbox.filters["tojson"] = _to_json
    sandbox.globals |= {"raise_exception": raise_exception, "strftime_now": _now}
    return sandbox


def _size(value: Any) -> int:
    if isinstance(value, int):
        return abs(value)
    return len(value) if isinstance(value, (str, bytes, list, tuple)) else 1


def _to_json(value: Any, ensure_ascii: bool = False, **layout: Any) -> str:  # noqa: FBT001, FBT002 - its name is the template's
    return json.dumps(value, ensure_ascii=ensure_ascii, **layout)


def _now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005 - local time, as transformers gives it
