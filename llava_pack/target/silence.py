"""Silence: a process that reaches for another host ends at once, before anything is sent.

Imported, `fence` puts it around this process. Run as a file, it is around one module:
`python -I silence.py MODULE ARGUMENTS…`.
"""

import functools
import os
import runpy
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

REACHED_OUT = 9  # Source: llava_pack/format/exit_codes.py, NETWORK
_HERE = ("localhost", "::1", "0.0.0.0", "::")  # noqa: S104 - names of this machine, not bound
_LOOK_UPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_SENDS = ("socket.connect", "socket.sendto", "socket.sendmsg")
_named: set[str] = set()
"""The gap in the fence: hosts that a person named on the command line, and their addresses."""


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _LOOK_UPS:
        host = arguments[0]
    elif event in _SENDS and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    host = os.fsdecode(host) if isinstance(host, bytes) else host
    if host and host not in {*_HERE, *_named} and not str(host).startswith("127."):
        os.write(2, f"{event}: tried to reach {host!r}, expected no network access\n".encode())
        os._exit(REACHED_OUT)  # an exception could be caught by whoever reached out


@functools.cache
def fence() -> None:
    """Put the fence around this process, for good. Source: Python, "Audit events table"."""
    sys.addaudithook(_hear)


def connect(host: str, port: int, timeout_s: float) -> socket.socket:
    """Return a connection to a host that a person named; the fence lets this process through.

    Raises:
        OSError: it has no address, or none that answers.
    """
    _named.add(host)
    refusal = OSError("it has no address")
    # IPv4 first: the IPv6 route of many a server leads nowhere
    for *_, place in sorted(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)):
        _named.add(str(place[0]))
        try:
            return socket.create_connection((str(place[0]), port), timeout_s)
        except OSError as error:
            refusal = error
    raise refusal


def facts(urls: Sequence[str] = (), hosts: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a receipt says about the network while its generation was made.

    Args:
        urls: of the indexes that were asked for wheels.
        hosts: theirs, as they were named on the command line.
    """
    gap = f", except for {', '.join(hosts)}" if hosts else ""
    return {
        "installer": "fenced" + gap if fence.cache_info().currsize else "not watched",
        "smoke test": "fenced",
        "uv": "run with --offline and without an index",
        "routes": sorted(set(routes())),
        **({"index": list(urls)} if urls else {}),
    }


def routes() -> Iterator[str]:
    """Yield the network interfaces by which another host could have been reached."""
    for name, column in (("route", 0), ("ipv6_route", -1)):
        table = Path("/proc/net", name)
        for line in table.read_text(encoding="ascii").splitlines() if table.exists() else ():
            interface = line.split()[column]
            if interface not in {"lo", "Iface"}:
                yield interface


if __name__ == "__main__":
    fence()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
