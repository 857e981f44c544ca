"""How long to keep asking: files and listings alike."""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import count
from typing import TypeVar

from llava_pack.format.errors import NetworkError, PackError

_T = TypeVar("_T")
_BUSY = frozenset({408, 425, 429})
_RESET = re.compile(r";\s*t=(\d+)")
"""Seconds until a limit is lifted. Source: the RateLimit header that the Hub sends with a 429."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a transfer keeps trying.

    Attributes:
        attempts: tries in a row that bring no byte, before giving up.
        backoff_s: pause after the first failure; doubles up to `backoff_most_s`.
        asked_most_s: a server may ask for a longer pause than ours, up to this; the Hub's limits
            are lifted every 5 minutes.
        connect_s: limit for reaching a host.
        read_s: limit for silence in the middle of a transfer.
    """

    attempts: int = 4
    backoff_s: float = 0.5
    backoff_most_s: float = 30.0
    asked_most_s: float = 300.0
    connect_s: float = 15.0
    read_s: float = 60.0

    def pause_s(self, failures: int, asked_s: float) -> float:
        """Return how long to wait after so many failures in a row.

        >>> Patience().pause_s(3, 0.0), Patience().pause_s(1, 60.0), Patience().pause_s(1, 9e9)
        (2.0, 60.0, 300.0)
        """
        own_s = min(self.backoff_s * 2.0 ** (failures - 1), self.backoff_most_s)
        return max(own_s, min(asked_s, self.asked_most_s))


class Interrupted(Exception):  # noqa: N818 - the loop's own signal; `failure` is what people see
    """A transfer broke off in a way that may pass.

    Attributes:
        failure: what to report when it does not pass.
        wait_s: how long the server asked to be left alone.
    """

    def __init__(self, failure: PackError, wait_s: float = 0.0) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.wait_s = wait_s


def patiently(ask: Callable[[], _T], patience: Patience | None = None) -> _T:
    """Return what a host says to a question, asked again while it is busy.

    A host that is not there at all is not asked again: a person who waits wants to know at once.

    Raises:
        PackError: what the last try failed with.
    """
    limits = patience or Patience()
    for failures in count(1):
        try:
            return ask()
        except Interrupted as broken:
            if failures >= limits.attempts or isinstance(broken.failure, NetworkError):
                raise broken.failure from broken
            time.sleep(limits.pause_s(failures, broken.wait_s))
    raise AssertionError  # pragma: no cover - `count` never ends


def may_pass(status: int) -> bool:
    """Say whether another try may be answered better."""
    return status >= 500 or status in _BUSY


def asked_pause_s(headers: Mapping[str, str], now: float) -> float:
    """Return for how many seconds a server asks to be left alone; 0 where it does not say.

    Args:
        headers: of its answer, names in lower case.
        now: seconds since 1970.

    >>> asked_pause_s({"retry-after": "7"}, 0.0), asked_pause_s({"ratelimit": '"api";r=0;t=55'}, 0)
    (7.0, 55.0)
    >>> asked_pause_s({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 40.0)
    60.0
    """
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    match = _RESET.search(headers.get("ratelimit", ""))
    return float(match[1]) if match else 0.0
