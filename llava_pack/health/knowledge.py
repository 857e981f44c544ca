"""Known failures: what they look like in a log, why they happen and what fixes them. Pure.

The data is `knowledge.toml` beside this module, in English and Chinese. Only the standard library
is needed, so that it can be read where an installation is broken.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from llava_pack.format.text import LANGUAGES, Language

MAX_TEXT_CHARS = 200_000
"""How much of a log is searched: its end, where programs say why they stopped."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What a person reads about a failure, in one language."""

    title: str
    cause: str
    fix: str
    """Commands to run, or what to change."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One known failure."""

    id: str
    """The code that `llava-pack explain` takes."""
    signatures: tuple[re.Pattern[str], ...]
    """What it looks like in a log; one match is enough."""
    sources: tuple[str, ...]
    """Where people met it."""
    advice: Mapping[Language, Advice]
    exit_code: int | None = None
    """For the meaning of one of our own exit codes."""

    def matches(self, text: str) -> bool:
        """Return whether a text shows this failure."""
        return any(signature.search(text) for signature in self.signatures)


@cache
def known_failures() -> tuple[Failure, ...]:
    """Return every known failure, the more telling ones first."""
    text = resources.files(__package__).joinpath("knowledge.toml").read_text(encoding="utf-8")
    return tuple(_failure(entry) for entry in tomllib.loads(text)["failure"])


def recognise(text: str, failures: Iterable[Failure]) -> tuple[Failure, ...]:
    """Return the failures that a text shows, in the order of `failures`.

    >>> [one.id for one in recognise("RuntimeError: CUDA out of memory.", known_failures())]
    ['out-of-gpu-memory']
    """
    end = text[-MAX_TEXT_CHARS:]
    return tuple(failure for failure in failures if failure.matches(end))


def look_up(code: str, failures: Iterable[Failure]) -> Failure | None:
    """Return the failure with an id, or the meaning of an exit code by number or word.

    >>> look_up("4", known_failures()).id
    'integrity'
    """
    wanted = code.strip().lower()
    return next((one for one in failures if wanted in {one.id, str(one.exit_code)}), None)


def _failure(entry: Mapping[str, Any]) -> Failure:
    return Failure(
        id=entry["id"],
        signatures=tuple(re.compile(s, re.IGNORECASE | re.DOTALL) for s in entry["signatures"]),
        sources=tuple(entry["sources"]),
        advice={language: Advice(**entry[language]) for language in LANGUAGES},
        exit_code=entry.get("exit_code"),
    )
