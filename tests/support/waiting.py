"""Waiting for what another process does, of which no event tells."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import TypeVar

_Found = TypeVar("_Found")
_ASK_EVERY_S = 0.02


def until(condition: Callable[[], _Found], *, within_s: float = math.inf) -> _Found:
    """Ask again until it holds, and return what it gave.

    Args:
        condition: what is asked.
        within_s: how long it may take; else pytest's time-out ends what never holds.
    """
    ends_s = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < ends_s, f"not within {within_s:g} s"
        time.sleep(_ASK_EVERY_S)
    return found


async def until_async(condition: Callable[[], _Found]) -> _Found:
    """Ask again until it holds, while the loop goes on; pytest's time-out ends what never does."""
    while not (found := condition()):  # noqa: ASYNC110 - nothing sets an event
        await asyncio.sleep(_ASK_EVERY_S)
    return found
