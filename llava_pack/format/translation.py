"""Our messages in another language: an English text in, what a catalogue has for it out. Pure.

The code speaks English everywhere; where a text reaches a person, it is matched as a whole against
the templates of a catalogue (`expected {1}, got {2}`). A text that matches none stays English.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_HOLE = re.compile(r"\{([1-9])\}")
_PLACE = re.compile(r"( ?)\{([1-9])\}( ?)")
_MARK = re.compile(r"[\s!?→✓✗,;]*")
_DEPTH = 5
_MOST_LINES = 200
_MOST_SENTENCES = 20
_MOST_NAMES = 5
_LONGEST_CHARS = 4000
_TELLING_LETTERS = 5
"""A template of fewer letters, such as `{1} of {2}`, says little: other messages may fit it."""


@dataclass(frozen=True)
class _Template:
    """A message with holes."""

    source: str
    translation: str

    @property
    def labelled(self) -> bool:
        """Say whether it begins with a label of ours, as `{1}: {2} (need {3})`."""
        return self.source.startswith("{1}: {2} (")

    @cached_property
    def literals(self) -> list[str]:
        """The fixed words of the source, in their order."""
        return _HOLE.split(self.source)[::2]

    def counts(self, values: tuple[str, ...], *, inside: bool) -> bool:
        """Return whether a match is no chance, perhaps `inside` of another message."""
        letters = sum(map(str.isalpha, "".join(self.literals)))
        if any("   " in value for value in values):  # columns of a table
            return False
        if any(")" in value.partition("(")[0] for value in values):  # more than one message
            return False
        if letters >= _TELLING_LETTERS or self.literals[0].endswith(": "):
            return True
        return not inside and (letters == _TELLING_LETTERS - 1 or all(map(_bare, values)))

    def values(self, text: str) -> tuple[str, ...] | None:
        """Return what stands in the holes, None if the text is another message."""
        first, *between, last = self.literals
        if not text.startswith(first) or not text.endswith(last):
            return None
        found: list[str] = []
        at = len(first)
        end = len(text) - len(last)
        for word in between:  # the first place is the best: no search that goes back
            place = text.find(word, at, max(at, end))
            if place < 0:
                return None
            found.append(text[at:place])
            at = place + len(word)
        return (*found, text[at:end]) if at <= end else None


class Catalogue:
    """The messages of a catalogue, by their English.

    >>> words = {"expected {1}, got {2}": "预期 {1},实际 {2}", "no such file": "没有这个文件"}
    >>> Catalogue(words).translated("a.toml: expected 3, got no such file")
    'a.toml: 预期 3,实际没有这个文件'
    >>> Catalogue(words).translated("anything else")
    'anything else'
    """

    def __init__(self, words: Mapping[str, str]) -> None:
        self._whole = {source: text for source, text in words.items() if "{1}" not in source}
        holed = (_Template(source, text) for source, text in words.items() if "{1}" in source)
        self._templates = sorted(
            holed, key=lambda one: (not one.labelled, -len(_HOLE.sub("", one.source)))
        )

    def translated(self, text: str) -> str:
        """Return a message in the catalogue's language, and as it is where that has none."""
        return self._translated(text, _DEPTH)

    def _translated(self, text: str, depth: int) -> str:
        start = _MARK.match(text)
        mark = start[0] if start else ""
        body = text[len(mark) :].rstrip()
        end = text[len(mark) + len(body) :]
        if not body or not depth:
            return text
        told = self._whole.get(body) or self._whole.get(f"{body}.", "").removesuffix("。")
        return mark + (told or self._filled(body, depth) or self._parts(body, depth - 1)) + end

    def _filled(self, text: str, depth: int) -> str:
        """Return the translation of a template that the text fits, nothing where there is none."""
        for template in self._templates if len(text) <= _LONGEST_CHARS else ():
            values = template.values(text)
            if values and not template.literals[0] and ": " in values[0]:
                return ""  # it stands behind a name, `host: …`, and is a part
            if values and template.counts(values, inside=depth < _DEPTH):
                shown = [self._value(value, depth - 1) for value in values]
                if template.labelled:
                    shown[0] = self._whole.get(values[0], values[0])
                pairs = list(zip(values, shown, strict=True))
                return _PLACE.sub(lambda place: _placed(place, pairs), template.translation)  # noqa: B023 - used now
        return ""

    def _value(self, value: str, depth: int) -> str:
        """Return what stands in a hole: a sentence is translated, a name stays."""
        return self._translated(value, depth) if " " in value else value

    def _parts(self, text: str, depth: int) -> str:
        """Return a text of several messages, each translated: lines, a list, or behind a name."""
        if "\n" in text and len(text) <= _LONGEST_CHARS * 4 and text.count("\n") <= _MOST_LINES:
            return "\n".join(self._translated(line, depth) for line in text.split("\n"))
        if len(text) > _LONGEST_CHARS:
            return text
        if 0 < text.count("; ") <= _MOST_SENTENCES:
            return "; ".join(self._translated(part, depth) for part in text.split("; "))
        for colon in itertools.islice(re.finditer(": ", text), _MOST_NAMES):
            rest = text[colon.end() :]
            if " " in rest and (told := self._whole.get(rest) or self._filled(rest, depth)):
                return f"{self.phrase(text[: colon.start()])}: {told}"
        name, sign, rest = text.partition(": ")
        return self.phrase(name) + sign + rest

    def phrase(self, text: str) -> str:
        """Return words of ours in the catalogue's language; one word may be anybody's name.

        >>> Catalogue({"ssh login": "ssh 登录", "weights": "权重"}).phrase("weights")
        'weights'
        """
        return self._whole.get(text, text) if " " in text else text


def _bare(value: str) -> bool:
    """Return whether a value is a name or an amount: no words of a sentence."""
    return " " not in value or any(map(str.isdigit, value))


def _placed(place: re.Match[str], pairs: list[tuple[str, str]]) -> str:
    """Return a value for its place: the spaces around it set off a foreign word only."""
    value, shown = pairs[int(place[2]) - 1]
    return f"{place[1]}{shown}{place[3]}" if shown == value else shown


def read_catalogue(*files: Path) -> Catalogue:
    """Return the catalogue that stands in files: tables of English texts and their translations."""
    import tomllib  # nobody but a Chinese reader pays for it

    words: dict[str, str] = {}
    for file in files:
        for table in tomllib.loads(file.read_text(encoding="utf-8")).values():
            words |= table
    return Catalogue(words)
