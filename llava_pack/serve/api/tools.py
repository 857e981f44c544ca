"""Tools that a client offers, and calls of them: free ones are left to the model, forced ones held.

No model here was trained to call a tool, so where it is free to, it answers in words. Where a call
is forced, the answer is held to one, written as JSON: the name, then the arguments by their schema.

Source: OpenAI API reference, "Create chat completion", `tools` and `tool_choice`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from llava_pack.engine.port import Message
from llava_pack.engine.sampling import JSON_GAP, Grammar
from llava_pack.serve.api.held import grammar_in
from llava_pack.serve.api.parts import Wire
from llava_pack.serve.api.schemas import closed
from llava_pack.serve.validation import wrong

_MAX_TOOLS = 128
_NAME = r"^[A-Za-z0-9_.-]{1,64}$"
_HEAD = re.compile(r'\{"name": "([A-Za-z0-9_.-]{1,64})", "arguments": ')
_TAIL = "}"
_GAPS = {"x-guidance": {"whitespace_pattern": JSON_GAP}}
_ASK = "Answer with a call of {which}, as JSON with its name and its arguments."


class OfferedFunction(Wire):
    """A function that can be called; `parameters` is the JSON Schema of its arguments."""

    name: Annotated[str, Field(pattern=_NAME)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class OfferedTool(Wire):
    """A tool that can be called."""

    type: Literal["function"] = "function"
    function: OfferedFunction


_OFFERED = TypeAdapter(tuple[OfferedTool, ...])


class ChosenFunction(Wire):
    """The name of a function."""

    name: str


class ForcedTool(Wire):
    """The tool that has to be called."""

    type: Literal["function"] = "function"
    function: ChosenFunction


class ToolFields(Wire):
    """The tools that are offered, and whether one has to be called."""

    tools: Annotated[tuple[dict[str, Any], ...], Field(max_length=_MAX_TOOLS)] | None = None
    """Of any kind, unless one has to be called."""
    tool_choice: Literal["none", "auto", "required"] | ForcedTool | None = None

    @model_validator(mode="after")
    def _one_can_be_called(self) -> Self:
        try:
            forced = self.forced
        except ValidationError as error:
            place = ".".join(("tools", *map(str, error.errors()[0]["loc"])))
            expected = 'expected {"type": "function", "function": {"name": …, "parameters": …}}'
            raise wrong(expected, place) from None
        if self.tool_choice == "required" and not forced:
            raise wrong("expected a tool, as tool_choice requires a call", "tools")
        if isinstance(self.tool_choice, ForcedTool) and not forced:
            raise wrong("expected the name of one of the tools", "tool_choice.function.name")
        return self

    @cached_property
    def forced(self) -> tuple[OfferedFunction, ...]:
        """The functions of which one has to be called; none where the answer is free."""
        if self.tool_choice in {None, "none", "auto"}:
            return ()
        offered = [tool.function for tool in _OFFERED.validate_python(self.tools or ())]
        if isinstance(self.tool_choice, ForcedTool):
            name = self.tool_choice.function.name
            return tuple(one for one in offered if one.name == name)[:1]
        return tuple(offered)


def call_grammar(functions: Sequence[OfferedFunction]) -> Grammar:
    """Return what a call of one of some functions is held to.

    Raises:
        GrammarError: their schemas are too long together; its subject is `tools`.
    """
    rules = [
        f"call{i}: {_literal(_head(one))} args{i} {_literal(_TAIL)}\n"
        f"args{i}: %json {json.dumps(_GAPS | _arguments(one))}"
        for i, one in enumerate(functions)
    ]
    calls = " | ".join(f"call{i}" for i in range(len(functions)))
    return grammar_in("tools", "grammar", "\n".join([f"start: {calls}", *rules]))


def asking(
    messages: Sequence[Message], functions: Sequence[OfferedFunction]
) -> tuple[Message, ...]:
    """Return a conversation whose last question asks for a call of one of some functions."""
    which = "this function" if len(functions) == 1 else "one of these functions"
    known = [one.model_dump(exclude_none=True) for one in functions]
    text = "\n".join((_ASK.format(which=which), json.dumps(known, ensure_ascii=False)))
    last = max((i for i, one in enumerate(messages) if one.role == "user"), default=None)
    if last is None:
        return (*messages, Message("user", (text,)))
    asked = Message("user", (*messages[last].parts, text))
    return (*messages[:last], asked, *messages[last + 1 :])


@dataclass
class CallText:
    """A forced call as its text grows.

    >>> call = CallText()
    >>> [call.push(text) for text in ('{"name": "add", "argum', 'ents": {"a": 1', "}}")]
    ['', '{"a": 1', '}']
    >>> call.name
    'add'
    """

    name: str = ""
    """Empty until it is known."""
    _held: str = ""

    def push(self, text: str) -> str:
        """Take a piece of the answer, and return what became certain of the arguments."""
        self._held += text
        if not self.name:
            if (head := _HEAD.match(self._held)) is None:
                return ""
            self.name, self._held = head[1], self._held[head.end() :]
        # The last bracket is the call's own.
        certain = self._held.removesuffix(_TAIL)
        self._held = self._held[len(certain) :]
        return certain


def _arguments(function: OfferedFunction) -> dict[str, Any]:
    return {"type": "object", **closed(function.parameters or {})}


def _head(function: OfferedFunction) -> str:
    return f'{{"name": "{function.name}", "arguments": '


def _literal(text: str) -> str:
    return json.dumps(text)
