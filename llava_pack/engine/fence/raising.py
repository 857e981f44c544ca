"""The fence goes up around this process, and is tried at once: what is told of it was seen."""

import os
import platform
import socket
import sys
import threading
from pathlib import Path

from llava_pack.engine.fence import capabilities, landlock, seccomp
from llava_pack.engine.fence.calls import ARCHITECTURES
from llava_pack.engine.fence.capabilities import CapabilitiesError
from llava_pack.engine.fence.landlock import LandlockError
from llava_pack.engine.fence.seccomp import SeccompError
from llava_pack.engine.fence.value import Fence, Standing
from llava_pack.format.errors import PackError, ServeError

_THREADS = Path("/proc/self/task")


def raise_fence(fence: Fence, *, required: bool = False) -> Standing:
    """Hold this process, and all that it starts, behind a fence for as long as they live.

    Call it before the process has a second thread: Landlock holds the one that asks, and those
    that it starts. A kernel that cannot do it is no error by itself.

    Args:
        fence: what is let through.
        required: whether a fence that is not whole is an error.

    Raises:
        PackError: there are threads already, which would stand outside.
        ServeError: the fence is required, and not whole.
    """
    standing = _raised(fence)
    if required and not standing.whole:
        since = "6.7" if fence.speaks_tcp else "5.13"
        raise ServeError(
            f"a complete fence is required, but the active one is {standing}",
            subject="--require-fence",
            hint=f"leave out --require-fence, or boot a kernel with Landlock, {since} or newer",
        )
    return standing


def _raised(fence: Fence) -> Standing:
    if sys.platform != "linux":
        return Standing(why=f"{platform.system()} has no Landlock and no seccomp")
    if (count := _threads()) > 1:
        raise PackError(
            f"{count} threads are already running, and a fence would cover only one of them"
        )
    try:
        seccomp.forbid_new_privileges()
    except SeccompError as error:
        return Standing(why=str(error))
    kept = _give_up_rights()
    abi, no_files = _hold_files(fence)
    calls, no_calls = _hold_calls(fence)
    why = "; ".join(filter(None, (no_files, no_calls, kept)))
    return Standing(landlock=abi, seccomp=calls, why=why)


def _give_up_rights() -> str:
    """Return why root's rights stay, empty where there are none any more."""
    try:
        capabilities.give_up()
    except CapabilitiesError as error:
        return str(error)
    return ""


def _threads() -> int:
    """Return how many threads there are; behind another fence, as far as Python knows."""
    try:
        return len(list(_THREADS.iterdir()))
    except OSError:
        return threading.active_count()


def _hold_files(fence: Fence) -> tuple[int, str]:
    """Return the version of Landlock that holds, 0 where none does, and what is missing."""
    try:
        abi = landlock.version()
        landlock.restrict(fence, abi)
    except LandlockError as error:
        return 0, str(error)
    if _opens("/"):
        return 0, "Landlock accepted the rules but does not enforce them"
    return abi, _open_ports(abi) if fence.speaks_tcp else ""


def _open_ports(abi: int) -> str:
    """Return why TCP ports are not held, empty where they are."""
    if not landlock.holds_ports(abi):
        return f"Linux {platform.release()} cannot restrict TCP ports"
    return "Landlock accepted the ports but does not enforce them" if _listens_anywhere() else ""


def _hold_calls(fence: Fence) -> tuple[bool, str]:
    """Return whether system calls are held, and why not."""
    machine = platform.machine()
    architecture = ARCHITECTURES.get(machine)
    if architecture is None:
        return False, f"there is no seccomp filter for {machine}"
    try:
        seccomp.install(seccomp.assemble(fence, architecture, os.getpid()), machine)
    except SeccompError as error:
        return False, str(error)
    return (
        (False, "seccomp accepted the filter but does not enforce it") if _sends() else (True, "")
    )


def _opens(folder: str) -> bool:
    """Return whether a folder that no fence lets through can be opened."""
    try:
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
    except OSError:
        return False
    return True


def _listens_anywhere() -> bool:
    """Return whether a port of the kernel's choice could be taken, which no fence lets through."""
    try:
        socket.create_server(("127.0.0.1", 0)).close()
    except OSError:
        return False
    return True


def _sends() -> bool:
    """Return whether a datagram could be sent, which no fence lets through."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True
