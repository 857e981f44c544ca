"""Ranks and alphas that an adapter gives to single modules, by patterns of their names. Pure.

A pattern comes from outside and Python's `re` goes back over every choice, so that only patterns
with few choices are compiled: each takes its moment on a name, whatever the name is.

Source: peft utils/other.py get_pattern_key (how a pattern is held against a name).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from llava_pack.checkpoint.defects import shown
from llava_pack.checkpoint.values import MAX_SIZE, is_number, refusal

FILE = "adapter_config.json"
Patterns = Mapping[re.Pattern[str], Any]
T = TypeVar("T")
_MAX_CHARS = 256
_MAX_CHOICES = 4
_ATOM = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_REPEAT = re.compile(r"(?:[*+?]|\{[^}]*\})[?+]?")
_GROUP = re.compile(r"\(([^()]*)\)([*+{]?)")


def is_rank(value: object) -> bool:
    """Return whether a value can be the rank of an adapter."""
    return type(value) is int and 0 < value <= MAX_SIZE


def rank_patterns(config: Mapping[str, Any]) -> Patterns:
    """Return the ranks of single modules.

    Raises:
        CheckpointError: they are no object, a pattern is not simple, or a value is no rank.
    """
    return _patterns(config, "rank_pattern", is_rank, f"a whole number between 1 and {MAX_SIZE}")


def alpha_patterns(config: Mapping[str, Any]) -> Patterns:
    """Return the alphas of single modules.

    Raises:
        CheckpointError: they are no object, a pattern is not simple, or a value is no number.
    """
    return _patterns(config, "alpha_pattern", is_number, "a number")


def by_pattern(module: str, patterns: Patterns, default: T) -> T:
    """Return the value of the first pattern that names the module or its end."""
    return next((value for one, value in patterns.items() if one.fullmatch(module)), default)


def _patterns(
    config: Mapping[str, Any], key: str, fits: Callable[[object], bool], expected: str
) -> Patterns:
    given = config.get(key)
    if not isinstance(given, Mapping | None):
        raise refusal(f"{key} is {shown(given)}, expected an object", subject=FILE)
    patterns: dict[re.Pattern[str], Any] = {}
    for pattern, value in (given or {}).items():
        if not fits(value):
            text = f"{key} gives {shown(pattern)} {shown(value)}, expected {expected}"
            raise refusal(text, subject=FILE)
        patterns[_compiled(key, pattern)] = value
    return patterns


def _compiled(key: str, pattern: str) -> re.Pattern[str]:
    text = f"{key} has {shown(pattern)}, expected a simple pattern of a module's name"
    if not _is_simple(pattern):
        hint = "name each module in full, or merge the adapter where it was trained"
        raise refusal(text, subject=FILE, hint=hint)
    try:
        return re.compile(rf"(.*\.)?({pattern})")
    except (re.error, OverflowError, RecursionError) as error:
        raise refusal(f"{text}: {error}", subject=FILE) from error


def _is_simple(pattern: str) -> bool:
    r"""Return whether a pattern has few choices, and none inside what is repeated.

    >>> _is_simple(r"layers\.(0|1)\..*\.q_proj"), _is_simple(r"(.*\.)?layers\.\d+\.mlp")
    (True, True)
    >>> _is_simple("(a+)+"), _is_simple("(a|a)*"), _is_simple("a?" * 40)
    (False, False, False)
    """
    if len(pattern) > _MAX_CHARS:
        return False
    plain = _ATOM.sub("x", pattern).replace("(?:", "(")
    if "(?" in plain:  # looks around, or sets flags
        return False
    while group := _GROUP.search(plain):
        inner = group[1].replace("|", "x?x", 1).replace("|", "")  # one choice, of however many
        if group[2] and _REPEAT.search(inner):
            return False
        plain = f"{plain[: group.start()]}{inner}{group[2]}{plain[group.end() :]}"
    return len(_REPEAT.findall(plain)) <= _MAX_CHOICES
