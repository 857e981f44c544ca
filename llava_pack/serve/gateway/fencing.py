"""The fence of the gateway, raised first thing in its process.

A gateway is handed what it listens on, and speaks to engines by Unix sockets: it needs to make no
socket of any network, and to open no file of the account that serves.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from llava_pack.engine.fence.home import move_in
from llava_pack.engine.fence.place import this_place
from llava_pack.engine.fence.plan import gateway_fence
from llava_pack.engine.fence.raising import raise_fence
from llava_pack.engine.fence.value import OFF, FenceMode, Standing

_log = logging.getLogger(__name__)


def enter_gateway_fence(
    home: Path,
    *,
    read: Iterable[Path] = (),
    write: Iterable[Path] = (),
    mode: FenceMode = "on",
) -> Standing:
    """Raise the fence around this process, a gateway, and return which one stands.

    Call it before anything of the web is imported and before there is a second thread, with
    everything open that was handed over. What it starts later stands behind it too.

    Args:
        home: a private folder to be made; HOME and TMPDIR become it.
        read: other files and folders that it reads, such as the keys'.
        write: other folders that it writes, such as the log's.
        mode: whether there is a fence, and whether it has to be whole.

    Raises:
        ServeError: it is required and not whole, or the private folder cannot be made.
    """
    if mode == "off":
        return OFF
    place = this_place(os.environ)
    move_in(home)
    fence = gateway_fence(place, home=home, read=read, write=write)
    standing = raise_fence(fence, required=mode == "required")
    _log.info("fence: %s", standing)
    return standing
