"""What this machine's kernel can hold."""

import sys

from llava_pack.engine.fence import landlock
from llava_pack.engine.fence.landlock import LandlockError

PORTS_SINCE = 4
"""The first version that holds TCP ports. Source: linux/landlock.h."""


def landlock_abi() -> int:
    """Return the version of its Landlock, 0 where there is none."""
    if sys.platform != "linux":
        return 0
    try:
        return landlock.version()
    except LandlockError:
        return 0
