"""Waits that Ctrl-C ends on Windows too, where it is delivered between two waits alone."""

import queue
import threading
import time
from typing import TypeVar

UNTIL_CTRL_C_S = 0.5
_Item = TypeVar("_Item")


def next_of(items: "queue.Queue[_Item]", timeout_s: float | None = None) -> _Item:
    """Return the next item of a queue, once there is one.

    Raises:
        queue.Empty: there was none within the time.
    """
    until_s = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        left_s = UNTIL_CTRL_C_S if until_s is None else max(0.0, until_s - time.monotonic())
        try:
            return items.get(timeout=min(left_s, UNTIL_CTRL_C_S))
        except queue.Empty:
            if left_s < UNTIL_CTRL_C_S:
                raise


def wait_for(thread: threading.Thread) -> None:
    """Wait until a thread has ended."""
    while thread.is_alive():
        thread.join(UNTIL_CTRL_C_S)
