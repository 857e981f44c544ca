"""Jinja as transformers sets it up for chat templates, with a limit on the work of one rendering.

A template is a program that came with a checkpoint: it runs in Jinja's sandbox, which gives it
nothing but the conversation, and is stopped where it runs without end.

Source: transformers utils/chat_template_utils.py (trimmed blocks, loop controls, the `generation`
tag, `raise_exception`, `strftime_now`, `tojson` without HTML).
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache, lru_cache, wraps
from math import prod
from types import BuiltinMethodType, FrameType
from typing import Any

from llava_pack.format.errors import CheckpointError, reason_of

MAX_TEMPLATE_CHARS = 1 << 17
_MAX_STEPS = 2_000_000
_MAX_SIZE = 1_000_000
_GROWING_FILTERS = (
    "batch", "center", "format", "indent", "join", "replace", "slice", "string", "tojson",
    "wordwrap",
)  # fmt: skip
_GROWING_METHODS = frozenset(
    {"center", "expandtabs", "format", "format_map", "join", "ljust", "replace", "rjust", "zfill"}
)
_WRITING = frozenset({"format", "format_map", "join", "replace", "string"})
"""To these a number is what they write, not how wide or how often."""
_WIDE = re.compile(r"\d{5}|%[^%a-z]*\*|:[^}]*\{")
"""A format whose width is large, or comes from a value."""


def rendered(text: str, values: Mapping[str, Any]) -> str:
    """Return what a template makes of some values.

    Raises:
        CheckpointError: it is no template, raises an error of its own, or does not end.
    """
    if len(text) > MAX_TEMPLATE_CHARS:
        raise CheckpointError(
            f"it has {len(text)} characters, expected at most {MAX_TEMPLATE_CHARS}"
        )
    try:
        _environment()  # the library is imported outside of the limit
        with _limited_steps():
            template = _compiled(text)
        with _limited_steps():
            return str(template.render(**values))
    except CheckpointError:
        raise
    except Exception as error:  # whatever a program from outside does
        raise CheckpointError(reason_of(error)) from error


@contextmanager
def _limited_steps() -> Iterator[None]:
    """Stop what runs in the block, in this thread, after so many lines of Python."""
    left = _MAX_STEPS

    def step(_frame: FrameType, _event: str, _arg: Any) -> Callable[..., Any]:
        nonlocal left
        left -= 1
        if left < 0:
            raise _endless()
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        yield
    finally:
        sys.settrace(before)
    if left < 0:  # Jinja passes over errors while it computes constants
        raise _endless()


def _endless() -> CheckpointError:
    return CheckpointError("it runs without end")


@lru_cache(maxsize=8)
def _compiled(text: str) -> Any:
    return _environment().from_string(text)


@cache
def _environment() -> Any:
    from jinja2 import nodes
    from jinja2.compiler import CodeGenerator
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(Extension):
        """`{% generation %}` marks what a model is trained on; here it only holds its body."""

        tags = {"generation"}  # noqa: RUF012 - the base class declares it

        def parse(self, parser: Any) -> list[nodes.Node]:
            next(parser.stream)
            return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))

    class Generator(CodeGenerator):
        """Lets `~` be computed by the sandbox, as other operators are."""

        def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:  # noqa: N802 - Jinja's
            self.write("environment.joined((")
            for part in node.nodes:
                self.visit(part, frame)
                self.write(", ")
            self.write("))")

    class Sandbox(ImmutableSandboxedEnvironment):
        """The sandbox, in which no value grows large."""

        code_generator_class = Generator
        intercepted_binops = frozenset({"*", "**", "+", "%"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" or _grown(operator, left, right) > _MAX_SIZE:
                raise SecurityError(f"{operator} of such values is not allowed")
            return super().call_binop(context, operator, left, right)

        def joined(self, parts: tuple[Any, ...]) -> str:
            _check("~", parts)
            return "".join(map(str, parts))

        def call(self, context: Any, called: Any, *args: Any, **named: Any) -> Any:
            method = getattr(called, "__wrapped__", called)  # Jinja wraps `format`
            if isinstance(method, BuiltinMethodType) and method.__name__ in _GROWING_METHODS:
                _check(method.__name__, method.__self__, *args, *named.values())
            return super().call(context, called, *args, **named)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    sandbox = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationTag, loopcontrols],
        finalize=_printed,
    )
    sandbox.filters["tojson"] = _to_json
    sandbox.filters |= {name: _bounded(name, sandbox.filters[name]) for name in _GROWING_FILTERS}
    sandbox.globals |= {"raise_exception": raise_exception, "strftime_now": _now}
    return sandbox


def _check(name: str, *values: Any) -> None:
    """Refuse what makes a large value of some values."""
    from jinja2.exceptions import SecurityError

    wide = name.startswith("format") and _WIDE.search(str(values[0]))
    size = _length if name in _WRITING else _size
    if wide or prod(max(1, size(one)) for one in values) > _MAX_SIZE:
        raise SecurityError(f"{name} of such values is not allowed")


def _printed(value: Any) -> Any:
    """Return what a template prints, unless it is long as a text."""
    if isinstance(value, (list, tuple, Mapping)):
        _check("the text", value)
    return value


def _bounded(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that makes nothing large."""

    @wraps(work)  # with what Jinja notes on it
    def checked(*args: Any, **named: Any) -> Any:
        values = args[1:] if hasattr(work, "jinja_pass_arg") else args
        _check(name, *values, *named.values())
        return work(*args, **named)

    return checked


def _grown(operator: str, left: Any, right: Any) -> int:
    """Return at least about how large the result of an operator is."""
    if operator == "*":
        return _size(left) * _size(right)
    if not isinstance(left, (str, list, tuple)):
        return 0
    if operator == "+":
        return _size(left) + _size(right)
    wide = isinstance(left, str) and _WIDE.search(left)
    return _MAX_SIZE + 1 if wide else _size(left) * max(1, _length(right))


def _size(value: Any) -> int:
    """Return a number, or the length of a text, or of all that a list or an object holds."""
    if isinstance(value, int):
        return abs(value)
    if isinstance(value, Mapping):
        return sum(_length(one) for pair in value.items() for one in pair)
    if isinstance(value, (list, tuple)):
        return sum(map(_length, value))
    return _length(value)


def _length(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    return 1 + _size(value) if isinstance(value, (list, tuple, Mapping)) else 1


def _to_json(value: Any, ensure_ascii: bool = False, **layout: Any) -> str:  # noqa: FBT001, FBT002 - its name is the template's
    return json.dumps(value, ensure_ascii=ensure_ascii, **layout)


def _now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005 - local time, as transformers gives it
