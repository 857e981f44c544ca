"""Our messages in another language: an English text in, what a catalogue has for it out. Pure.

The code speaks English everywhere; where a text reaches a person, it is matched as a whole against
the templates of a catalogue (`expected {1}, got {2}`). A text that matches none stays English.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_HOLE = re.compile(r"\{([1-9])\}")
_MARK = re.compile(r"[\s!?→✓✗,;]*")
_DEPTH = 5
_LONGEST_CHARS = 4000
_LOOSE_LETTERS = 5
"""A template of fewer letters, such as `{1} or {2}`, is no evidence inside another message."""


@dataclass(frozen=True)
class _Template:
    """A message with holes."""

    source: str
    translation: str

    @cached_property
    def literals(self) -> list[str]:
        """The fixed words of the source, in their order."""
        return _HOLE.split(self.source)[::2]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What matches such a message, a group for each hole."""
        return re.compile("(.*?)".join(map(re.escape, self.literals)), re.DOTALL)

    @cached_property
    def loose(self) -> bool:
        """Whether a name or a foreign text may match by chance."""
        return sum(map(str.isalpha, "".join(self.literals))) < _LOOSE_LETTERS

    def values(self, text: str) -> tuple[str, ...] | None:
        """Return what stands in the holes, None if the text is another message."""
        words = self.literals
        if not text.startswith(words[0]) or not text.endswith(words[-1]):
            return None
        found = self.pattern.fullmatch(text) if all(word in text for word in words) else None
        return found.groups() if found else None


class Catalogue:
    """The messages of a catalogue, by their English.

    >>> words = {"expected {1}, got {2}": "预期 {1},实际 {2}", "no such file": "没有这个文件"}
    >>> Catalogue(words).translated("a.toml: expected 3, got no such file")
    'a.toml: 预期 3,实际 没有这个文件'
    >>> Catalogue(words).translated("anything else")
    'anything else'
    """

    def __init__(self, words: Mapping[str, str]) -> None:
        self._whole = {source: text for source, text in words.items() if "{1}" not in source}
        holed = (_Template(source, text) for source, text in words.items() if "{1}" in source)
        self._templates = sorted(holed, key=lambda one: -len(_HOLE.sub("", one.source)))

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
        if told := self._whole.get(body) or self._whole.get(f"{body}.", "").removesuffix("。"):
            return mark + told + end
        for template in self._templates if len(body) <= _LONGEST_CHARS else ():
            if template.loose and depth < _DEPTH:
                continue
            if values := template.values(body):
                shown = [self._value(value, depth - 1) for value in values]
                filled = _HOLE.sub(lambda hole: shown[int(hole[1]) - 1], template.translation)  # noqa: B023 - used now
                return mark + filled + end
        return mark + self._parts(body, depth - 1) + end

    def _value(self, value: str, depth: int) -> str:
        """Return what stands in a hole: a sentence is translated, a name stays."""
        return self._translated(value, depth) if " " in value or value in self._whole else value

    def _parts(self, text: str, depth: int) -> str:
        """Return a text of several messages, each translated: lines, a list, or behind a name."""
        if "\n" in text:
            return "\n".join(self._translated(line, depth) for line in text.split("\n"))
        if "; " in text:
            return "; ".join(self._translated(part, depth) for part in text.split("; "))
        for place in (match.start() for match in re.finditer(": ", text)):
            name = text[:place]
            rest = text[place + 2 :]
            if (told := self._translated(rest, depth)) != rest:
                return f"{name}: {told}"
        return text


def read_catalogue(*files: Path) -> Catalogue:
    """Return the catalogue that stands in files: tables of English texts and their translations."""
    words: dict[str, str] = {}
    for file in files:
        for table in tomllib.loads(file.read_text(encoding="utf-8")).values():
            words |= table
    return Catalogue(words)
