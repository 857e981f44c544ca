"""Run a command where no network is: a namespace of its own, with loopback and no route.

`python -m llava_pack.cli.laptop.silence COMMAND…` is what runs inside; `silenced` builds the line
that gets there. It needs no root where the kernel allows user namespaces.
"""

import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_pack.target.silence import routes

_UNSHARE = ("unshare", "--map-root-user", "--net", "--")
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914  # Source: netdevice(7)
_IFF_UP = 1


def silenced(command: Sequence[str]) -> list[str] | None:
    """Return `command` wrapped to run without a route, or None where this machine forbids it."""
    if shutil.which(_UNSHARE[0]) is None:
        return None
    inside = [*_UNSHARE, sys.executable, "-m", "llava_pack.cli.laptop.silence"]
    tried = subprocess.run([*inside, "true"], capture_output=True, check=False)
    return [*inside, *command] if tried.returncode == 0 else None


def has_route() -> bool:
    """Return whether a packet to another host would leave this namespace; so it is where unknown.

    It is read, not tried: nothing here connects to anywhere.
    """
    return not Path("/proc/net/route").exists() or any(routes())


def raise_loopback() -> None:
    """Bring `lo` up, which a new namespace has down."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def main(command: Sequence[str]) -> str:
    """Bring loopback up, make sure that nothing else is there, and become `command`."""
    raise_loopback()
    if not has_route():
        os.execvp(command[0], list(command))  # noqa: S606 - a list of arguments, no shell line
    return "llava-pack: this namespace has a route to other hosts"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
