"""What a value must look like to leave the machine: one validator for each kind of field. Pure.

Nothing is searched for secrets here. A value leaves because it is a number, one of a list of
words, or a text of a form in which nothing private fits; everything else stays, and is counted.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

LEFT_OUT = object()
"""What a shape returns for a value that does not leave."""
_MOST_ROWS = 4000
_DIGEST_CHARS = 10


@dataclass(kw_only=True)
class Told:
    """What one support bundle has told so far: its marks, and how much stayed.

    Attributes:
        salt: random bytes of this bundle: what is hashed with them means nothing elsewhere.
        left_out: values that stayed, by document.
    """

    salt: bytes
    document: str = ""
    left_out: Counter[str] = field(default_factory=Counter)
    _marks: dict[str, dict[str, str]] = field(default_factory=dict)

    def mark(self, kind: str, value: str) -> str:
        """Return the same mark for the same private name, wherever in the bundle it stands.

        >>> told = Told(salt=b"")
        >>> told.mark("model", "a"), told.mark("model", "b"), told.mark("model", "a")
        ('own model 1', 'own model 2', 'own model 1')
        """
        marks = self._marks.setdefault(kind, {})
        return marks.setdefault(value, f"own {kind} {len(marks) + 1}")

    def digest(self, text: str) -> str:
        """Return what tells two texts of this bundle apart, and nothing else."""
        keyed = hashlib.blake2b(text.encode(errors="replace"), key=self.salt[:64])
        return keyed.hexdigest()[:_DIGEST_CHARS]

    def stays(self) -> object:
        """Count a value that does not leave, and return LEFT_OUT."""
        self.left_out[self.document] += 1
        return LEFT_OUT


class Shape(Protocol):
    """Decides on one value."""

    def admit(self, value: Any, told: Told) -> Any:
        """Return what may be shown in its place, LEFT_OUT where that is nothing."""


@dataclass(frozen=True)
class Number:
    """A number within bounds; true and false are none.

    >>> Number(0, 9).admit(7, Told(salt=b"")), Number(0, 9).admit("7", Told(salt=b"")) is LEFT_OUT
    (7, True)
    """

    least: float = 0
    most: float = 2**63

    def admit(self, value: Any, told: Told) -> Any:
        """Return the number."""
        fits = type(value) in {int, float} and self.least <= value <= self.most
        return value if fits else told.stays()


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def admit(self, value: Any, told: Told) -> Any:
        """Return it."""
        return value if type(value) is bool else told.stays()


@dataclass(frozen=True)
class OneOf:
    """One of some words that this module's callers wrote down.

    >>> OneOf("nf4", "int8").admit("nf4", Told(salt=b""))
    'nf4'
    """

    words: frozenset[str]
    other: str = ""
    """What is shown for any other text; empty shows nothing."""

    def __init__(self, *words: str, other: str = "") -> None:
        object.__setattr__(self, "words", frozenset(words))
        object.__setattr__(self, "other", other)

    def admit(self, value: Any, told: Told) -> Any:
        """Return the word."""
        if isinstance(value, str) and value in self.words:
            return value
        stays = told.stays()
        return self.other or stays


@dataclass(frozen=True)
class Form:
    """A text that a pattern matches as a whole; the pattern must leave no room for words.

    >>> Form(r"[0-9a-f]{8}").admit("0123abcd", Told(salt=b""))
    '0123abcd'
    """

    pattern: str

    def admit(self, value: Any, told: Told) -> Any:
        """Return the text."""
        fits = isinstance(value, str) and re.fullmatch(self.pattern, value, re.ASCII)
        return value if fits else told.stays()


@dataclass(frozen=True)
class Begins:
    """The part of a text that a pattern matches at its beginning; the rest stays.

    >>> Begins(r"[0-9]+([.][0-9]+){1,2}").admit("6.8.0-45-acme-bank", Told(salt=b""))
    '6.8.0'
    """

    pattern: str

    def admit(self, value: Any, told: Told) -> Any:
        """Return that part."""
        found = re.match(self.pattern, value, re.ASCII) if isinstance(value, str) else None
        return found[0] if found else told.stays()


@dataclass(frozen=True)
class Name:
    """A name that is public because everybody has it; a person's own becomes a mark.

    >>> Name("recipe", frozenset({"demo"})).admit("project-x", Told(salt=b""))
    'own recipe 1'
    """

    kind: str
    public: frozenset[str]

    def admit(self, value: Any, told: Told) -> Any:
        """Return the name, or its mark."""
        if not isinstance(value, str):
            return told.stays()
        return value if value in self.public else told.mark(self.kind, value)


@dataclass(frozen=True)
class Words:
    """A text each of whose words is a public one; a few may have a form: names of products.

    Words that are neither are left out of it.

    >>> shape = Words(frozenset({"NVIDIA", "Tesla"}), r"[A-Z][0-9]{2,4}", 1)
    >>> shape.admit("NVIDIA A100 of-anna B200", Told(salt=b""))
    'NVIDIA A100 … …'
    """

    public: frozenset[str]
    form: str = r"(?!)"
    most: int = 0
    """How many words may have the form: more of them could add up to something."""

    def admit(self, value: Any, told: Told) -> Any:
        """Return the text of public words."""
        if not isinstance(value, str):
            return told.stays()
        left, shown = self.most, []
        for word in value.split()[:12]:
            fits = word not in self.public and left > 0 and re.fullmatch(self.form, word, re.ASCII)
            left -= bool(fits)
            shown.append(word if fits or word in self.public else "…")
        if "…" in shown:
            told.stays()
        return " ".join(shown)


@dataclass(frozen=True)
class Either:
    """The first of some shapes that a value fits."""

    shapes: tuple[Shape, ...]

    def __init__(self, *shapes: Shape) -> None:
        object.__setattr__(self, "shapes", shapes)

    def admit(self, value: Any, told: Told) -> Any:
        """Return what the first fitting shape shows."""
        for shape in self.shapes:
            if shape.admit(value, Told(salt=told.salt)) is not LEFT_OUT:
                return shape.admit(value, told)
        return told.stays()


@dataclass(frozen=True)
class Given:
    """Whether there is anything: a path, an address, a token.

    >>> Given().admit("http://anna:secret@proxy", Told(salt=b"")), Given().admit("", Told(salt=b""))
    ('set', 'empty')
    """

    def admit(self, value: Any, told: Told) -> Any:  # noqa: ARG002 - as every shape
        """Return one of two words."""
        return "set" if value else "empty"


@dataclass(frozen=True)
class Several:
    """A list, each entry of one shape; entries that do not fit stay."""

    shape: Shape
    most: int = _MOST_ROWS

    def admit(self, value: Any, told: Told) -> Any:
        """Return the entries that fit, in their order."""
        if not isinstance(value, list | tuple):
            return told.stays()
        shown = [_shown(self.shape, entry, told) for entry in value[: self.most]]
        told.left_out[told.document] += max(0, len(value) - self.most)
        return [entry for entry in shown if entry is not LEFT_OUT]


@dataclass(frozen=True)
class Table:
    """An object whose keys have a shape too."""

    keys: Shape
    values: Shape

    def admit(self, value: Any, told: Told) -> Any:
        """Return the pairs of which both fit."""
        if not isinstance(value, Mapping):
            return told.stays()
        pairs = [
            (_shown(self.keys, key, told), _shown(self.values, entry, told))
            for key, entry in list(value.items())[:_MOST_ROWS]
        ]
        return {
            key: entry for key, entry in pairs if isinstance(key, str) and entry is not LEFT_OUT
        }


@dataclass(frozen=True)
class Fields:
    """An object with known fields; what it has beside them stays, its name too."""

    shapes: Mapping[str, Shape]

    def admit(self, value: Any, told: Told) -> Any:
        """Return the known fields whose values fit."""
        if not isinstance(value, Mapping):
            return told.stays()
        told.left_out[told.document] += sum(key not in self.shapes for key in value)
        shown = {
            name: _shown(shape, value[name], told)
            for name, shape in self.shapes.items()
            if name in value
        }
        return {name: entry for name, entry in shown.items() if entry is not LEFT_OUT}


def _shown(shape: Shape, value: Any, told: Told) -> Any:
    """Return what a shape shows of a value; null says nothing, and stays null."""
    return None if value is None else shape.admit(value, told)
