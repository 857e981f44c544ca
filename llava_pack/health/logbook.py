"""What a log may tell: our own messages by their templates, stacks by their places, numbers.

Every other line stays where it is. It is counted, with its logger, its level and where it stands,
so that whoever helps can ask for it; and known failures are told by their code. Pure.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from llava_pack.health import vocabulary
from llava_pack.health.messages import LOGGED
from llava_pack.health.reading import read
from llava_pack.health.shapes import Told

_MAX_LINE_CHARS = 2000
_SHOWN_EVENTS = 2000
_SHOWN_RUNS = 300
_SHOWN_FRAMES = 24
_SHOWN_SIGNS = 200
_LINE = re.compile(
    r"(?:(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) \d{1,9} )?"
    r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) (?P<logger>[A-Za-z_][\w.]{0,80}): (?P<said>.*)",
    re.ASCII,
)
"""Source: llava_pack/serve/logfile.py and llava_pack/engine/worker.py, their formats."""
_ENGINES = re.compile(r"(?P<model>[^:]{1,200}): (?P<said>.*)")
_READER = "llava_pack.serve.supervision.engine_process"
"""The logger that writes down what engines say."""
_OWN_WORDS = f"{_READER}, an engine's own words"
_FRAME = re.compile(r'\s*File "(?P<path>[^"]{1,1000})", line (?P<line>\d{1,6})', re.ASCII)
_RAISED = re.compile(r"(?P<name>[A-Za-z_][\w.]{0,120})(?::|$).*", re.ASCII)
_ERRNO = re.compile(r"\[Errno (\d{1,4})\]", re.ASCII)
_AMOUNT = r"([\d.]{1,9}) ([KMG]iB)"
_OUT_OF_MEMORY = (
    rf"CUDA out of memory\. Tried to allocate {_AMOUNT}\. GPU (\d{{1,2}}) has a total capacity of "
    rf"{_AMOUNT} of which {_AMOUNT} is free"
)
_SIGNS = tuple(
    (re.compile(pattern, re.ASCII), text)
    for pattern, text in (
        (
            _OUT_OF_MEMORY,
            "CUDA out of memory: wanted {} {}; GPU {} of {} {} had {} {} free",
        ),
        (r"NVRM: Xid \([^)]{1,80}\): (\d{1,4})\b", "Xid {}"),
        (r"Out of memory: Killed process \d{1,9}\b", "the kernel ended a process for memory"),
        (r"\bI/O error\b", "an I/O error"),
        (r"Main process exited, code=(exited|killed|dumped), status=(\d{1,3})\b", "unit {} {}"),
    )
)
"""Lines of other programs of which numbers are told."""


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One line, taken apart; its text is what its logger said."""

    number: int
    logger: str
    text: str
    level: str = ""
    at: str | None = None
    model: str = ""
    """The engine's, where one said it."""


@dataclass(kw_only=True)
class _LineRun:
    """Lines in a row that stay, of one logger and level."""

    line: _Line
    texts: list[str] = field(default_factory=list)

    def told(self, told: Told) -> dict[str, Any]:
        """Return what is told of lines that stay."""
        facts: dict[str, Any] = {
            "lines": len(self.texts),
            "first_line": self.line.number,
            "logger": _logger(self.line.logger),
            "level": self.line.level,
            "same_as": told.digest("\n".join(self.texts)),
        }
        raised = [found for text in self.texts if (found := _raised(text))]
        if raised:
            facts |= raised[-1]
        stack = [place for text in self.texts if (place := _place(text))]
        return facts | ({"stack": stack[-_SHOWN_FRAMES:]} if stack else {})


class Log:
    """The shape of a log's text."""

    def admit(self, value: Any, told: Told) -> Any:
        """Return what its lines tell; where there are too many, the last of each kind."""
        if not isinstance(value, str):
            return told.stays()
        lines = value.splitlines()
        events, runs = _sorted(_parsed(lines), told)
        told.left_out[told.document] += sum(len(run.texts) for run in runs)
        return {
            "lines": len(lines),
            "events": events[-_SHOWN_EVENTS:],
            "signs": _signs(lines)[-_SHOWN_SIGNS:],
            "not_included": [run.told(told) for run in runs[-_SHOWN_RUNS:]],
        }


def _parsed(lines: Sequence[str]) -> Iterator[_Line]:
    """Yield each line; one without a logger goes on with what the one before it began."""
    last = _Line(number=0, logger="", text="")
    for number, raw in enumerate(lines, 1):
        found = _LINE.fullmatch(raw[:_MAX_LINE_CHARS])
        if found is None:
            yield replace(last, number=number, text=raw[:_MAX_LINE_CHARS], at=None)
            continue
        last = _Line(
            number=number,
            logger=found["logger"],
            text=found["said"],
            level=found["level"],
            at=found["at"],
        )
        if last.logger == _READER and (engine := _ENGINES.fullmatch(last.text)):
            last = _engines(last, engine["model"], engine["said"])
        yield last


def _engines(line: _Line, model: str, said: str) -> _Line:
    """Return what an engine said as its own line."""
    own = _LINE.fullmatch(said)
    if own is None:
        return replace(line, model=model, logger=_OWN_WORDS, text=said)
    return replace(line, model=model, logger=own["logger"], level=own["level"], text=own["said"])


def _sorted(lines: Iterator[_Line], told: Told) -> tuple[list[dict[str, Any]], list[_LineRun]]:
    """Return the lines that are told, and the others as runs."""
    events: list[dict[str, Any]] = []
    runs: list[_LineRun] = []
    open_run = False
    for line in lines:
        said = read(line.text, LOGGED.get(line.logger, ()), told)
        if said.strip("…: "):
            events.append(_event(line, said, told))
            open_run = False
            continue
        run = runs[-1] if open_run else None
        if run is None or (run.line.logger, run.line.level) != (line.logger, line.level):
            run = _LineRun(line=line)
            runs.append(run)
        run.texts.append(line.text)
        open_run = True
    return events, runs


def _event(line: _Line, said: str, told: Told) -> dict[str, Any]:
    model = {"model": vocabulary.MODEL.admit(line.model, told)} if line.model else {}
    return {
        "line": line.number,
        "at": line.at,
        "level": line.level,
        "logger": _logger(line.logger),
        **model,
        "said": said,
    }


def _signs(lines: Sequence[str]) -> list[dict[str, Any]]:
    found = (
        (number, text.format(*match.groups()))
        for number, line in enumerate(lines, 1)
        for pattern, text in _SIGNS
        if (match := pattern.search(line[:_MAX_LINE_CHARS]))
    )
    return [{"line": number, "shows": text} for number, text in found]


def _raised(text: str) -> dict[str, Any] | None:
    """Return the kind of an exception and its number, None for another line.

    >>> _raised("OSError: [Errno 28] No space left on device: '/home/anna/x'")
    {'raised': 'OSError', 'errno': 28}
    """
    found = _RAISED.fullmatch(text)
    name = found["name"].rpartition(".")[2] if found else ""
    if name not in vocabulary.EXCEPTIONS:
        return None
    errno = _ERRNO.search(text)
    return {"raised": name} | ({"errno": int(errno[1])} if errno else {})


def _place(text: str) -> str:
    """Return where a line of a stack is: a file of ours with its line, or a public package."""
    found = _FRAME.match(text)
    if found is None:
        return ""
    parts = found["path"].replace("\\", "/").split("/")
    if "llava_pack" in parts:
        start = len(parts) - 1 - parts[::-1].index("llava_pack")
        own = "/".join(parts[start:])
        return f"{own}:{found['line']}" if own in _own_files() else ""
    after = parts[parts.index("site-packages") + 1 :] if "site-packages" in parts else parts[-2:]
    package = after[0].removesuffix(".py") if after else ""
    return package if package in vocabulary.MODULES else ""


@cache
def _own_files() -> frozenset[str]:
    return vocabulary.own_files()


@cache
def _logger(name: str) -> str:
    """Return a logger's name where it is ours, the package's where that is public."""
    if name in LOGGED or name == _OWN_WORDS:
        return name
    package = name.partition(".")[0]
    if not package:
        return "no logger"
    return package if package in vocabulary.MODULES else "another logger"
