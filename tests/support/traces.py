"""What a strace log says about the network: who was reached for, by which processes."""

import ipaddress
import re
import shutil
from pathlib import Path

_LINE = re.compile(r"^(\d+)\s+(.*)$")
_CHILD = re.compile(r"(?:clone3?|v?fork)\b.* = (\d+)$")
_ADDRESS = re.compile(r'sin6?_port=htons\((\d+)\).*?inet_(?:addr|pton)\((?:AF_INET6, )?"([^"]+)"')
_NAME_PORTS = {53, 853, 5353, 5355}
# Source: systemd, man/nss-resolve; glibc, nscd/nscd-client.h (a request for the table "hosts")
_LOCAL_LOOK_UP = re.compile(r'sun_path="[^"]*/io\.systemd\.Resolve"|send(?:to|msg)\(.*hosts\\0"')
CALLS = "execve,clone,clone3,fork,vfork,connect,sendto,sendmsg,sendmmsg"


def traced(log: Path) -> list[str]:
    """Return what to put before a command to have its log; empty where strace is absent."""
    if shutil.which("strace") is None:
        return []
    return [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-e",
        f"trace={CALLS}",
        "-e",
        "signal=none",
        "-o",
        str(log),
    ]


def reached(log: Path, program: str) -> tuple[int, list[str]]:
    """Return how many addresses `program` and its children spoke to, and which were outside.

    A name look-up counts as outside wherever its resolver is, behind a Unix socket too.

    Args:
        log: of `traced`.
        program: from the process that starts it on, for example `unshare`.
    """
    calls = _calls(log, program)
    spoken = [
        (address, int(port), call) for call in calls for port, address in _ADDRESS.findall(call)
    ]
    outside = [
        f"{address} port {port}: {call[:120]}"
        for address, port, call in spoken
        if port in _NAME_PORTS or not ipaddress.ip_address(address).is_loopback
    ]
    asked = [call[:120] for call in calls if _LOCAL_LOOK_UP.search(call)]
    return len(spoken), outside + asked


def addresses(log: Path, program: str) -> set[tuple[str, int]]:
    """Return every address and port that `program` and its children spoke to."""
    return {
        (address, int(port))
        for call in _calls(log, program)
        for port, address in _ADDRESS.findall(call)
    }


def _calls(log: Path, program: str) -> list[str]:
    """Return the calls of `program` and its children."""
    calls = [parts.groups() for line in _lines(log) if (parts := _LINE.match(line))]
    inside = {pid for pid, call in calls if f'/{program}"' in call.split(",")[0]}
    for pid, call in calls:  # a child's calls can be told before its birth is
        if pid in inside and (child := _CHILD.search(call)):
            inside.add(child[1])
    return [call for pid, call in calls if pid in inside]


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()
