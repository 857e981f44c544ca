"""A line of ours, told again by the templates of `llava_pack.health.messages`.

Only a line that one of them matches as a whole is told, and of it the fixed words, which stand in
this repository, and the values that fit. `{text}` is never told.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from llava_pack.health import vocabulary
from llava_pack.health.messages import CAUSES, DRIVER
from llava_pack.health.shapes import LEFT_OUT, Form, OneOf, Shape, Told
from llava_pack.serve.port import PHASES

_DIFFERENCE = re.compile(
    rf"(?P<name>[a-z0-9-]{{1,40}}) (?P<found>absent|{vocabulary.VERSION}), "
    rf"locked (?P<locked>{vocabulary.VERSION})(?=, |$| and )"
)
_MORE = re.compile(r" and ([0-9]{1,6}) more$")


@dataclass(frozen=True)
class _Nested:
    """A text that is one of some templates itself."""

    templates: tuple[str, ...]

    def admit(self, value: Any, told: Told) -> Any:
        return read(value, self.templates, told) or told.stays()


@dataclass(frozen=True)
class _Parts:
    """Names with commas between them, perhaps `and 3 more` behind."""

    shape: Shape

    def admit(self, value: Any, told: Told) -> Any:
        more = _MORE.search(value)
        names = _MORE.sub("", value).split(", ")
        shown = [self.shape.admit(name, told) for name in names]
        return ", ".join("…" if one is LEFT_OUT else one for one in shown) + (
            more[0] if more else ""
        )


class _Differences:
    """Packages that are not as locked."""

    def admit(self, value: Any, told: Told) -> Any:
        shown = [
            f"{vocabulary.PACKAGE.admit(one['name'], told)} {one['found']}, locked {one['locked']}"
            for one in _DIFFERENCE.finditer(value)
        ]
        return ", ".join(shown) or told.stays()


class _InstalledFile:
    """A file of a generation, by its place: the model's own name becomes a mark."""

    def admit(self, value: Any, told: Told) -> Any:
        if value in vocabulary.OWN_FILES:
            return value
        found = re.fullmatch(rf"model/([^/]{{1,200}})/({vocabulary.FILES})", value)
        return (
            f"model/{vocabulary.MODEL.admit(found[1], told)}/{found[2]}" if found else told.stays()
        )


class _Nothing:
    """A text that stays."""

    def admit(self, value: Any, told: Told) -> Any:  # noqa: ARG002 - as every shape
        return told.stays()


_NUMBER = Form(rf"{vocabulary.DECIMAL}|inf|nan")
_SHAPES: dict[str, Shape] = {
    "text": _Nothing(),
    "count": Form(r"[0-9]{1,12}"),
    "number": _NUMBER,
    "version": vocabulary.VERSION_TEXT,
    "pids": Form(r"[0-9]{1,9}(?:, [0-9]{1,9}){0,9}"),
    "request": Form(r"(?:[0-9]{1,9}/)?[0-9a-f]{16}"),
    "reason": OneOf("stop", "length", "cancelled", "abort", "error"),
    "order": OneOf("start", "stop", "drain", "status", other="…"),
    "route": OneOf(*vocabulary.ROUTES, other="another route"),
    "signal": Form(r"SIG[A-Z0-9]{2,8}"),
    "phase": OneOf(*PHASES),
    "device": vocabulary.DEVICE,
    "engine": Form(r"(?:vLLM|SGLang|LMDeploy) [0-9][0-9a-z.+]{0,20}"),
    "recipe": vocabulary.RECIPE,
    "model": vocabulary.MODEL,
    "models": _Parts(vocabulary.MODEL),
    "module": OneOf(*vocabulary.MODULES, other="another module"),
    "exception": OneOf(*vocabulary.EXCEPTIONS, other="another error"),
    "gpu": vocabulary.GPU_NAME,
    "fence": Form(r"Landlock ABI [0-9]{1,2} and seccomp"),
    "memory": OneOf("GPU memory", "memory"),
    "resource": OneOf("disk", "inodes of the disk", "memory", "file handles"),
    "proxies": _Parts(
        OneOf("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    ),
    "throttles": _Parts(OneOf("hardware slowdown", "hardware too hot", "too hot", "power brake")),
    "files": _Parts(_InstalledFile()),
    "packages": _Differences(),
    "cause": _Nested((*CAUSES, *(f"{{model}}: {cause}" for cause in CAUSES))),
    "driver": _Nested(DRIVER),
}
_MUST_FIT = frozenset(
    {"count", "number", "version", "pids", "request", "signal", "phase", "device", "resource"}
    | {"memory", "reason"}
)
"""Where such a value does not fit, the line is another one."""
_PLACE = re.compile(r"\{(\w+)\}")


def read(text: str, templates: Iterable[str], told: Told) -> str:
    """Return a line as the first template that it fits tells it, empty where none does.

    >>> read("m: its engine, process 7, was killed by SIGKILL", CAUSES, Told(salt=b""))
    ''
    >>> read("its engine, process 7, was killed by SIGKILL", CAUSES, Told(salt=b""))
    'its engine, process 7, was killed by SIGKILL'
    """
    for template in templates:
        pattern, names = _compiled(template)
        if found := pattern.fullmatch(text):
            values = iter(_value(name, found[place], told) for place, name in enumerate(names, 1))
            return _PLACE.sub(lambda _place: next(values), template)  # noqa: B023 - used at once
    return ""


def _value(name: str, said: str, told: Told) -> str:
    shown = _SHAPES[name].admit(said, told)
    return "…" if shown is LEFT_OUT else str(shown)


@cache
def _compiled(template: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """Return the pattern of a template, a group for each value, and the kinds of the values."""
    names = tuple(_PLACE.findall(template))
    fixed = _PLACE.split(template)[::2]
    groups = [f"({_form(name)})" for name in names]
    pattern = "".join(
        re.escape(words) + group for words, group in zip(fixed, [*groups, ""], strict=True)
    )
    return re.compile(pattern, re.ASCII), names


def _form(name: str) -> str:
    shape = _SHAPES[name]
    if name not in _MUST_FIT:
        return r".{1,400}?"
    if isinstance(shape, Form):
        return f"(?:{shape.pattern})"
    words = shape.words if isinstance(shape, OneOf) else ()
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
