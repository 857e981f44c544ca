"""A fence as a value, and what became of it. Pure.

Two means of Linux hold it, and neither needs root: Landlock decides which files may be opened,
seccomp which system calls may be made. Both stay for the life of a process and of all that it
starts, and neither can be taken back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

FenceMode = Literal["on", "off", "required"]
"""Whether there is a fence, and whether it has to be whole."""
MODES: tuple[FenceMode, ...] = get_args(FenceMode)
Sockets = Literal["none", "listen", "unix", "tcp", "unix and tcp"]
"""What may be made. none: nothing, and what was handed over goes on. listen: Unix sockets that
others connect to. unix: Unix sockets that connect. tcp: TCP over IPv4, at the fence's ports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """What is let through; everything else is refused.

    A folder stands for all that is below it. What is not there when the fence is raised is left
    out of it.
    """

    read: tuple[Path, ...] = ()
    """Files to read."""
    run: tuple[Path, ...] = ()
    """Programs to start, which are read too."""
    write: tuple[Path, ...] = ()
    """Folders to read, write, make and remove plain files and folders in."""
    devices: tuple[Path, ...] = ()
    """What is opened for reading and writing; nothing is made or removed there."""
    names: tuple[Path, ...] = ()
    """Folders that are listed, without a file in them being opened."""
    sockets: Sockets = "none"
    ports: tuple[int, ...] = ()
    """TCP ports to connect to and to listen at, of any address: the kernel looks at no more."""
    starts: bool = False
    """Whether other programs may be started; they stand behind the same fence."""
    driver: bool = False
    """Whether a GPU's driver works in the process: calls that it may need are left to it."""

    @property
    def speaks_tcp(self) -> bool:
        """Whether sockets of TCP may be made, which the ports bound."""
        return self.sockets in {"tcp", "unix and tcp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Which fence stands around a process.

    Attributes:
        landlock: version of the kernel's Landlock, 0 where files are not held.
        seccomp: whether system calls are held.
        why: what is missing and why; empty where nothing is.
    """

    landlock: int = 0
    seccomp: bool = False
    why: str = ""

    @property
    def whole(self) -> bool:
        """Whether files and system calls are held, and nothing is missing otherwise."""
        return self.landlock > 0 and self.seccomp and not self.why

    @property
    def stands(self) -> bool:
        """Whether anything is held."""
        return self.landlock > 0 or self.seccomp

    def __str__(self) -> str:
        """Return it in a line.

        >>> str(Standing(landlock=7, seccomp=True))
        'Landlock ABI 7 and seccomp'
        >>> str(Standing(seccomp=True, why="Linux 5.4 has no Landlock"))
        'seccomp alone: Linux 5.4 has no Landlock'
        """
        files = f"Landlock ABI {self.landlock}" if self.landlock else ""
        calls = "seccomp" if self.seccomp else ""
        if files and calls:
            return f"{files} and {calls}" + (f", but {self.why}" if self.why else "")
        return f"{files or calls} alone: {self.why}" if files or calls else f"none: {self.why}"

    @classmethod
    def from_wire(cls, fields: Mapping[str, Any] | None) -> "Standing | None":
        """Return what another process said of itself, None where it said nothing.

        What a later version adds is not looked at.
        """
        if not isinstance(fields, Mapping):
            return None
        return cls(
            landlock=int(fields.get("landlock", 0)),
            seccomp=bool(fields.get("seccomp")),
            why=str(fields.get("why", "")),
        )


OFF = Standing(why="switched off by --no-fence")
"""Somebody wanted none."""
