"""What an answer is held to, under the names that clients have for it: one grammar in the end.

Source: OpenAI API reference, "Structured outputs"; vllm sampling_params.py,
StructuredOutputsParams, and the `guided_*` fields of earlier releases; sglang
srt/entrypoints/openai/protocol.py (`regex`, `ebnf`, `json_schema`); llama.cpp
tools/server/README.md (`grammar`, `json_schema`).
"""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from llava_pack.engine.limits import MAX_GRAMMAR_CHARS
from llava_pack.engine.sampling import ANY_OBJECT, Grammar, GrammarError, GrammarKind
from llava_pack.serve.api.parts import Wire
from llava_pack.serve.api.request_fields import StrictWire
from llava_pack.serve.api.schemas import closed
from llava_pack.serve.validation import wrong

_MAX_CHOICES = 1000
_Text = Annotated[str, Field(min_length=1, max_length=MAX_GRAMMAR_CHARS)]
_Schema = dict[str, Any] | _Text
_Choices = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, max_length=_MAX_CHOICES)
]


class NamedSchema(Wire):
    """A JSON Schema with a name; the answer is always held to it, whatever `strict` says."""

    json_schema: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Wire):
    """The kind of text that an answer is."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    any_schema: dict[str, Any] | None = Field(default=None, alias="schema")

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise wrong("is missing", "json_schema")
        return self

    def grammar(self) -> Grammar | None:
        """Return what the answer is held to."""
        if self.type == "text":
            return None
        schema = self.json_schema.json_schema if self.json_schema else self.any_schema
        if schema is None:
            return ANY_OBJECT
        return grammar_in("response_format", "json_schema", _written("json_schema", schema))


class StructuredOutputs(StrictWire):
    """What vLLM holds an answer to; one of the five."""

    harmless = frozenset({"disable_fallback"})
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "structural_tag": (),
        "whitespace_pattern": (),
        "disable_any_whitespace": (False,),
        "disable_additional_properties": (False,),
    }

    json_schema: _Schema | None = Field(default=None, alias="json")
    regex: _Text | None = None
    choice: _Choices | None = None
    grammar: _Text | None = None
    json_object: bool | None = None


class HeldFields(Wire):
    """Whatever says what an answer is held to; at most one may."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: _Schema | None = None
    guided_regex: _Text | None = None
    guided_choice: _Choices | None = None
    guided_grammar: _Text | None = None
    json_schema: _Schema | None = None
    regex: _Text | None = None
    ebnf: _Text | None = None
    grammar: _Text | None = None

    def held_to(self) -> tuple[str, Grammar] | None:
        """Return the field that says what the answer is held to, and what that is.

        Raises:
            GrammarError: there are two, or one is too long; its subject is the field.
        """
        found = list(self._grammars())
        if len(found) > 1:
            first, second = (name for name, _ in found[:2])
            raise GrammarError(
                f"{first} holds the answer already; send one of them", subject=second
            )
        return found[0] if found else None

    def _grammars(self) -> Iterator[tuple[str, Grammar]]:
        if self.response_format and (grammar := self.response_format.grammar()):
            yield "response_format", grammar
        if (outputs := self.structured_outputs) is not None:
            if outputs.json_object:
                yield "structured_outputs.json_object", ANY_OBJECT
            yield from _of(outputs, "structured_outputs.", {
                "json_schema": "json_schema", "regex": "regex", "choice": "choice",
                "grammar": "grammar",
            })  # fmt: skip
        yield from _of(self, "", {
            "guided_json": "json_schema", "guided_regex": "regex", "guided_choice": "choice",
            "guided_grammar": "grammar", "json_schema": "json_schema", "regex": "regex",
            "ebnf": "grammar", "grammar": "grammar",
        })  # fmt: skip


def _of(body: Wire, above: str, kinds: dict[str, GrammarKind]) -> Iterator[tuple[str, Grammar]]:
    """Yield the fields of a body that hold its answer, as the client wrote them."""
    for name, kind in kinds.items():
        if (value := getattr(body, name)) is not None:
            field = f"{above}{type(body).model_fields[name].alias or name}"
            yield field, grammar_in(field, kind, _written(kind, value))


def grammar_in(field: str, kind: GrammarKind, text: str) -> Grammar:
    """Return a grammar that came in a field.

    Raises:
        GrammarError: it is too long; its subject is the field.
    """
    try:
        return Grammar(kind, text)
    except GrammarError as error:
        raise GrammarError(error.message, subject=field) from error


def _written(kind: GrammarKind, value: Any) -> str:
    if kind == "json_schema":
        value = _schema(value)
    return value if isinstance(value, str) else json.dumps(value)


def _schema(value: Any) -> Any:
    """Return a schema whose objects are closed; a text that is no object stays one."""
    try:
        read = json.loads(value) if isinstance(value, str) else value
        return closed(read) if isinstance(read, Mapping) else value
    except (ValueError, RecursionError):
        return value
