"""A process that ends with its parent, by the kernel; elsewhere than on Linux nothing is done.

Source: prctl(2), PR_SET_PDEATHSIG.
"""

import ctypes
import signal

_PR_SET_PDEATHSIG = 1  # Source: linux/prctl.h
_prctl = getattr(ctypes.CDLL(None), "prctl", None)  # looked up before any fork


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
