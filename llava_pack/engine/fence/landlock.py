"""Landlock by its three system calls: which files a process may open from now on.

Source: linux/landlock.h and Documentation/userspace-api/landlock.rst of Linux 6.18.
"""

import ctypes
import errno
import os
import platform
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from llava_pack.engine.fence.value import Fence

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every architecture
_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG = 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1

READ = _READ_FILE | _READ_DIR
RUN = READ | _EXECUTE
# Neither links, FIFOs, sockets nor devices: nobody who cleans up afterwards meets any.
WRITE = READ | _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER
DEVICE = READ | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV

# By the version that brought it: what is handled is refused where no rule allows it.
_FILES_SINCE = ((1, (1 << 13) - 1), (2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV))
_PORTS_SINCE = ((4, _BIND_TCP | _CONNECT_TCP),)
_SCOPES_SINCE = ((6, 0b11),)  # abstract Unix sockets, and signals
_PROC = Path("/proc")


class LandlockError(Exception):
    """The kernel does not do it, and why."""


def version() -> int:
    """Return the version of the kernel's Landlock.

    Raises:
        LandlockError: it has none, or it is not to be used here.
    """
    try:
        return _call(_CREATE, None, 0, _VERSION)
    except OSError as error:
        release = platform.release()
        why = {
            errno.ENOSYS: f"Linux {release} has no Landlock",
            errno.EOPNOTSUPP: f"Linux {release} was booted without Landlock",
            errno.EPERM: "this container or service does not allow Landlock",
        }
        other = f"Landlock is refused: {error.strerror}"
        raise LandlockError(why.get(error.errno or 0, other)) from error


def holds_ports(abi: int) -> bool:
    """Return whether a version of Landlock holds TCP ports."""
    return since(_PORTS_SINCE, abi) != 0


def restrict(fence: Fence, abi: int) -> None:
    """Hold this thread, and all that it starts, behind the fence's files.

    Args:
        fence: what is let through.
        abi: version of the kernel's Landlock; what it does not know yet is left out.

    Raises:
        LandlockError: the kernel refuses.
    """
    files, ports = since(_FILES_SINCE, abi), since(_PORTS_SINCE, abi)
    handled = struct.pack("=QQQ", files, ports, since(_SCOPES_SINCE, abi))
    try:
        ruleset = _call(_CREATE, handled, len(handled), 0)
        try:
            for path, rights in rules(fence):
                _allow(ruleset, path, rights & files)
            for port in fence.ports if ports else ():
                _call(_ADD, ruleset, _NET_PORT, struct.pack("=QQ", ports, port), 0)
            _call(_RESTRICT, ruleset, 0)
        finally:
            os.close(ruleset)
    except OSError as error:
        raise LandlockError(f"Landlock is refused: {error.strerror}") from error


def rules(fence: Fence) -> Iterator[tuple[Path, int]]:
    """Yield each path of a fence with its rights."""
    for paths, rights in (
        (fence.read, READ),
        (fence.run, RUN),
        (fence.write, WRITE),
        (fence.devices, DEVICE),
        (fence.names, _READ_DIR),
    ):
        yield from ((path, rights) for path in paths)


def since(table: Iterable[tuple[int, int]], abi: int) -> int:
    """Return the bits that a version knows.

    >>> since(((1, 0b1), (2, 0b10), (3, 0b100)), 2)
    3
    """
    return sum(bits for first, bits in table if first <= abi)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    """Add a rule for what is at the path; nothing where nothing is there."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        whole = rights if stat.S_ISDIR(os.fstat(place).st_mode) else rights & _OF_FILES
        _call(_ADD, ruleset, _PATH_BENEATH, struct.pack("=Qi", whole, place), 0)
    finally:
        # A rule belongs to an inode, and the kernel makes those of /proc anew whenever it has
        # forgotten them: an open descriptor keeps it from forgetting. It stays open for good.
        if not path.is_relative_to(_PROC):
            os.close(place)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call and return its result.

    Raises:
        OSError: it failed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *given))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
