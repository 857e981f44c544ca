"""Two machines' networks with a cable between them, and nothing else: network namespaces."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import until

_OWNED = () if os.geteuid() == 0 else ("--preserve-credentials", "--user")


@dataclass(frozen=True)
class Machine:
    """One end of the cable."""

    holder: int
    address: str
    interface: str

    @property
    def wrap(self) -> tuple[str, ...]:
        """The command that runs commands there."""
        return ("nsenter", *_OWNED, "--net", "--target", str(self.holder))

    def run(self, *command: str) -> None:
        """Run a command there, to its end."""
        subprocess.run([*self.wrap, *command], check=True, capture_output=True)

    def cable(self, *, plugged: bool) -> None:
        """Pull the cable, or plug it in."""
        self.run("ip", "link", "set", self.interface, "up" if plugged else "down")


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Have two machines, 10.77.0.1 and 10.77.0.2, until the block ends."""
    first = () if os.geteuid() == 0 else ("--map-root-user",)
    with _holding(["unshare", *first, "--net"]) as one:
        here = Machine(one, "10.77.0.1", "cable1")
        with _holding([*here.wrap[:-3], "--target", str(one), "unshare", "--net"]) as two:
            there = Machine(two, "10.77.0.2", "cable2")
            cable = ("type", "veth", "peer", "name", there.interface, "netns", str(two))
            here.run("ip", "link", "add", here.interface, *cable)
            for each in (here, there):
                each.run("ip", "link", "set", "lo", "up")
                each.run("ip", "address", "add", f"{each.address}/24", "dev", each.interface)
                each.cable(plugged=True)
            yield here, there


@contextmanager
def _holding(wrap: Sequence[str]) -> Iterator[int]:
    """Run something in a new namespace, and yield its process number."""
    own = _network("self")
    with subprocess.Popen([*wrap, "sleep", "1000"]) as process:
        try:
            until(lambda: _sleeps(process.pid) and _network(process.pid) != own)
            yield process.pid
        finally:
            process.kill()


def _sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep")


def _network(pid: int | str) -> Path:
    return Path(f"/proc/{pid}/ns/net").readlink()
