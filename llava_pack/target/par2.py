"""par2, run with as few rights as can be, and what it says of its work."""

import ctypes
import errno
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from llava_pack.format import files
from llava_pack.format.errors import InstallError, PreflightError
from llava_pack.format.progress import Progress
from llava_pack.target.programs import SYSTEM

if TYPE_CHECKING:
    from io import BufferedReader

PROGRAM = "runtime/par2"
MAX_BLOCK_BYTES = 64 << 20
"""Of recovery data as we make it: what par2 holds while it reads a file follows from it."""
_MOST_ADDRESSES = 2 << 30
_NOBODY = 65534
"""User and group. Source: Linux, Documentation/admin-guide/sysctl/fs.rst, overflowuid."""
_NEW_SPACES = 0x10000000 | 0x40000000  # Source: linux/sched.h, CLONE_NEWUSER and CLONE_NEWNET
_NO_NEW_PRIVILEGES = 38  # Source: linux/prctl.h
_FIRST_S = 600
_LEAST_BYTES_S = 4 << 20
_KEPT_LINES = 40
_OF_EACH_FILE = ("Opening:", "Target:", "Loading", "Loaded")
_OTHER_FILES = 100
_STEP = re.compile(r"(?:(Scanning|Processing|Repairing): )?([0-9.]+)%")
"""What its phases that take long look like. Source: par2cmdline, progressmeter.h."""


def run(
    command: Sequence[str], total_bytes: int, progress: Progress, **options: Any
) -> tuple[int, str]:
    """Run par2 to its end, and return its exit code and what it said of all files together.

    Args:
        command: an absolute path and arguments.
        total_bytes: of the files that it reads; how long it may take follows from them.
        progress: told what par2 says of its own.
        options: of `subprocess.Popen`.

    Raises:
        InstallError: it cannot be started, or takes too long.
    """
    steps = _Steps(progress, total_bytes)
    late = threading.Event()
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    environment = {"LC_ALL": "C.UTF-8", **SYSTEM}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, env=environment, **pipes, **options
        )
    except OSError as error:
        raise InstallError(f"par2 cannot be started: {error.strerror}") from error

    def end() -> None:
        late.set()
        process.kill()

    with process:
        timer = threading.Timer(time_limit_s(total_bytes), end)
        timer.start()
        try:
            output = cast("BufferedReader", process.stdout)
            while data := output.read1():
                steps.read(data.decode("utf-8", "backslashreplace"))
        except BaseException:
            process.kill()
            raise
        finally:
            timer.cancel()
    steps.end()
    if late.is_set():
        raise InstallError(f"par2 did not finish within {time_limit_s(total_bytes)} s")
    return process.returncode, "\n".join(steps.lines)


def time_limit_s(total_bytes: int) -> int:
    """Return how long par2 may work on files of that size together."""
    return _FIRST_S + total_bytes // _LEAST_BYTES_S


class _Steps:
    """What par2 says: percentages become progress, lines that are not of one file are kept."""

    def __init__(self, progress: Progress, total_bytes: int) -> None:
        self.lines: list[str] = []
        self._progress = progress
        self._total = total_bytes
        self._phase: str | None = None
        self._done = 0
        self._rest = ""

    def read(self, text: str) -> None:
        """Take what it printed next."""
        *lines, self._rest = re.split(r"[\r\n]", self._rest + text)
        self._rest = self._rest[-4096:]
        for line in lines:
            if step := re.fullmatch(_STEP, line):
                self._advance(step[1] or "", float(step[2]))
            elif line.strip() and not line.endswith("%") and not line.startswith(_OF_EACH_FILE):
                self.lines = [*self.lines, line][-_KEPT_LINES:]

    def end(self) -> None:
        """End the last phase."""
        self.read("\n")
        if self._phase is not None:
            self._progress.done()

    def _advance(self, phase: str, percent: float) -> None:
        if phase != self._phase:
            if self._phase is not None:
                self._progress.done()
            self._phase = phase
            self._done = 0
            self._progress.start(_phase(phase), self._total)
        done = int(self._total * min(percent, 100.0) / 100)
        self._progress.advance(max(done - self._done, 0))
        self._done = max(done, self._done)


def _phase(word: str) -> str:
    """Return a phase as a person is told of it."""
    if word == "Processing":
        return "computing recovery data"
    return "rebuilding files" if word == "Repairing" else "reading files"


class Reach:
    """What par2 reads, opened here, so that it needs no way to it: root's may lead through /root.

    Args:
        count: of the files, to have room for.
    """

    def __init__(self, count: int) -> None:
        self.opened: list[int] = []
        if sys.platform == "linux":
            import resource

            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            wanted = max(soft, _at_most(resource.RLIMIT_NOFILE, count + _OTHER_FILES))
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self.opened:
            os.close(descriptor)

    def here(self, folder: Path) -> str:
        """Return how par2 names its working folder."""
        return "/proc/self/cwd" if sys.platform == "linux" else str(folder)

    def of(self, path: Path) -> str:
        """Return how par2 names a file or folder, which is opened, and is no link.

        Raises:
            PreflightError: nobody, whom root's is run as, cannot read it.
        """
        if sys.platform != "linux":
            return str(path.absolute())
        descriptor = os.open(path, os.O_RDONLY | files.UNFOLLOWED)
        self.opened.append(descriptor)
        if os.geteuid() == 0 and not os.fstat(descriptor).st_mode & stat.S_IROTH:
            raise PreflightError(
                "as root, par2 runs as nobody, who cannot read this file",
                subject=str(path),
                hint="mount the medium with umask=022, or run the command as another account",
            )
        return f"/proc/self/fd/{descriptor}"


def confined(place: Path, file_bytes: int, total_bytes: int) -> dict[str, Any]:
    """Return options of `subprocess.Popen` for a program that is trusted with `place` alone.

    Root's is run as nobody, who then owns the folders of `place`.
    """
    if sys.platform != "linux":
        return {}
    import resource

    limits = {
        resource.RLIMIT_AS: _MOST_ADDRESSES,
        resource.RLIMIT_CPU: time_limit_s(total_bytes) * 2,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CORE: 0,
    }
    most = {limit: _at_most(limit, size) for limit, size in limits.items()}
    give_up = partial(_give_up, most, ctypes.CDLL(None))
    confined: dict[str, Any] = {"preexec_fn": give_up, "start_new_session": True}
    if os.geteuid() != 0:
        return confined
    try:
        for root, _, _ in os.walk(place):
            os.chown(root, _NOBODY, _NOBODY)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return confined  # root of a namespace without such a user, who is an ordinary account
    return {**confined, "user": _NOBODY, "group": _NOBODY, "extra_groups": ()}


def _at_most(limit: int, size: int) -> int:
    import resource

    hard = resource.getrlimit(limit)[1]
    return size if hard == resource.RLIM_INFINITY else min(size, hard)


def _give_up(most: Mapping[int, int], libc: ctypes.CDLL) -> None:
    """Give up rights, in the process that becomes par2; the network where the kernel lets it."""
    import resource

    for limit, size in most.items():
        resource.setrlimit(limit, (size, size))
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    libc.unshare(_NEW_SPACES)
