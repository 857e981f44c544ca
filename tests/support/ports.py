"""Ports that stay free until a test gets to them."""

import os
import socket
from contextlib import ExitStack

_FIRST, _COUNT = 20_000, 12_000
"""Below what the kernels of Linux and macOS give to sockets that ask for any port."""


def quiet_ports(count: int) -> list[int]:
    """Return free ports of loopback that nobody else gets by chance, also in another process."""
    begin = os.getpid() * 97
    with ExitStack() as held:
        found: list[int] = []
        for offset in range(_COUNT):
            port = _FIRST + (begin + offset) % _COUNT
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise AssertionError(f"fewer than {count} ports are free")
