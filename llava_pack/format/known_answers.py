"""Questions whose answers are known, and what models answered to them."""

import re
from dataclasses import dataclass
from typing import Literal

from llava_pack.format.records import Defects

_DECIMAL = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")


@dataclass(frozen=True, kw_only=True)
class KnownAnswer:
    """A picture, a question, and the words that the answer must contain."""

    name: str
    picture_png: str
    """Base64."""
    prompt: str
    contains: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a model answered to a known question where it was known to be right, step by step."""

    answer: str
    """Name of the known answer."""
    precision: str
    made_on: str
    """Kind of device and versions of the libraries: where they are equal, so are the bits."""
    recorded: Literal["build", "install", "recipe", "now"]
    text: str
    prompt: str
    """Of the prompt's token ids, SHA-256; the next four: the stages of engine/batching/trace.py."""
    words: str
    pixels: str
    tower: tuple[str, ...]
    """Decimal numbers."""
    projector: tuple[str, ...]
    token_ids: tuple[int, ...]
    """Empty where an engine does not tell them, as are the likeliest ones of a step."""
    likeliest: tuple[tuple[int, ...], ...]
    """Ids of the likeliest tokens at each step, best first."""
    micronats: tuple[tuple[int, ...], ...]
    """Their log-probabilities, times -1,000,000."""


def check_reference(one: Reference, where: str, defects: Defects) -> None:
    """Record what is wrong with a reference that was read."""
    steps = len(one.token_ids)
    if not (steps == len(one.likeliest) == len(one.micronats)) or any(
        len(ids) != len(odds) for ids, odds in zip(one.likeliest, one.micronats, strict=True)
    ):
        defects.add(where, "expected as many odds as tokens")
    if not all(_DECIMAL.fullmatch(number) for number in (*one.tower, *one.projector)):
        defects.add(where, "its features are not decimal numbers")
