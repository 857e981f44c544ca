"""Holds a program, so that nothing of it outlives whoever started it; stdlib only.

    python -I -S tether.py NAME PARENT TERM_S COUNT

NAME tells whoever lists processes what is held. The program and its arguments come on stdin, COUNT
of them, each ended by NUL. On stdout, as lines, go the program's process number (where it cannot be
started, its negative errno) and, when it has ended, its exit code (where a signal killed it, the
signal's negative number). Stdout is closed when nothing is left. Stderr is the program's own.

A tether is two processes of this code, one the parent of the other: its strands. The kernel wakes a
strand whose parent is gone, and gives it whatever loses its parent below it. So whichever process
is killed, a strand is left that ends the rest:

- SIGTERM, SIGINT and SIGABRT are passed on to the program, which goes on if it was stopped.
- Told to end by SIGTERM or SIGINT, it has TERM_S seconds; it is told as well when whoever started
  the tether is gone.
- What it leaves behind when it ends by itself is told to end, and has TERM_S seconds.
- Whatever is left then is killed, whatever sessions and groups it made; on SIGQUIT at once. What
  removes what processes shared gets a second more: the other strand, and Python's resource tracker.
- Files in memory that it shared, and that nobody has any more, are removed. They are looked for
  once a second, and before anything is told to end: what others killed all at once leaves them.

Where both strands are killed at once, the kernel kills the program; nobody ends what that started.

Source: prctl(2), PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER; CPython,
Lib/multiprocessing/resource_tracker.py; shm_overview(7).
"""

import ctypes
import math
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # Source: linux/prctl.h
_prctl = getattr(ctypes.CDLL(None), "prctl", None)
_STDIN, _REPORT, _STDERR = range(3)
_ENDING = (signal.SIGTERM, signal.SIGINT)
_PASSED_ON = (*_ENDING, signal.SIGABRT)
_HEARD = (*_PASSED_ON, signal.SIGQUIT, signal.SIGCHLD, signal.SIGCONT)
_PARENT_GONE = signal.SIGCONT  # one that was stopped hears of it too
_AGAIN_S = 0.05
_LOOK_S = 1.0
_LAST, _LAST_S = (os.fsencode(__file__), b"multiprocessing.resource_tracker"), 1.0
_MEMORY = "/dev/shm"  # noqa: S108 - what is there is removed, and not believed
_MAPPED = os.fsencode(f" {_MEMORY}/")


class Strand:
    """One process of a tether, and its child: the other strand, or the program.

    Args:
        parent: the process number of whoever started it.
        child: the child's.
        term_s: seconds that the child gets once it is told to end.
        began_s: when the tether did.
    """

    def __init__(self, parent: int, child: int, term_s: float, began_s: float) -> None:
        self._parent = parent
        self._child = child
        self._term_s = term_s
        self._kills_s = self._last_ends_s = math.inf
        self._memory = Memory(began_s)
        self._heard, hears = os.pipe()
        os.set_blocking(hears, False)
        signal.set_wakeup_fd(hears)
        for number in _HEARD:
            signal.signal(number, lambda *_: None)

    def hold(self) -> None:
        """Return when the child has ended, and everything below this process with it."""
        while self._reaped():
            if self._parent not in {0, os.getppid()}:
                self._parent = 0
                self._hear(signal.SIGTERM)
            left_s = self._kills_s - time.monotonic()
            if left_s <= 0:
                self._last_ends_s = min(self._last_ends_s, time.monotonic() + _LAST_S)
                self._send(signal.SIGKILL)
                left_s = _AGAIN_S
            if select.select([self._heard], [], [], min(left_s, _LOOK_S))[0]:
                for number in os.read(self._heard, select.PIPE_BUF):
                    self._hear(number)
            else:
                self._memory.look()
        self._memory.remove()

    def _reaped(self) -> bool:
        """Reap what has ended, and return whether there is anything left."""
        before = self._child
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._child:
                    self._child = 0
                    _tell(os.waitstatus_to_exitcode(ended[1]))
            if self._child != before:  # and it left something behind
                self._end_in_time()
                self._send(signal.SIGTERM, signal.SIGCONT)
            return True
        return False

    def _hear(self, number: int) -> None:
        if number == signal.SIGQUIT:
            self._kills_s = -math.inf
        if number in _ENDING:
            self._end_in_time()
        if number in _PASSED_ON and self._child:
            os.kill(self._child, number)
            os.kill(self._child, signal.SIGCONT)

    def _end_in_time(self) -> None:
        self._kills_s = min(self._kills_s, time.monotonic() + self._term_s)
        self._memory.see(_descendants())

    def _send(self, *numbers: int) -> None:
        """Send signals to everything below this process but what may still end by itself."""
        below = {*_descendants(), self._child} - {0}
        self._memory.see(below)
        for pid in below:
            if time.monotonic() < self._last_ends_s < math.inf and _is_last(pid):
                continue
            for number in numbers:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)


class Memory:
    """The files in memory that are shared below this process.

    Those alone that are this account's, and made since it began: no model that somebody put there.

    Args:
        began_s: when the tether did.
    """

    def __init__(self, began_s: float) -> None:
        self._began_s = began_s
        self._seen: set[int] = set()
        self._there: set[str] = set()

    def look(self) -> None:
        """Note what the processes below this one have there, where something is new."""
        before, self._there = self._there, set(_listed(_MEMORY))
        if self._there - before:
            self.see(_descendants())

    def see(self, pids: Iterable[int]) -> None:
        """Note what processes have there."""
        for pid in pids:
            self._seen |= _in_memory(pid)

    def remove(self) -> None:
        """Remove what was seen and is there, and which no process has."""
        paths = (f"{_MEMORY}/{name}" for name in _listed(_MEMORY))
        left = {inode: path for path in paths if (inode := self._own(path)) in self._seen}
        for name in filter(str.isdecimal, _listed("/proc") if left else ()):
            for inode in _in_memory(int(name)):
                left.pop(inode, None)
        for path in left.values():
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108 - pathlib takes long to load

    def _own(self, path: str) -> int | None:
        """Return the inode of a file of this account's, made since; None of another one."""
        with suppress(OSError):
            facts = os.lstat(path)
            own = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid()
            return facts.st_ino if own and facts.st_ctime >= self._began_s else None
        return None


def main(argv: list[str]) -> None:
    """Hold the program that is told on stdin."""
    began_s = time.time() - _AGAIN_S  # the clock of files is coarse
    parent, term_s, count = int(argv[2]), float(argv[3]), int(argv[4])
    _end_with(parent, _PARENT_GONE)
    *program, _ = sys.stdin.buffer.read().split(b"\0")
    if len(program) != count:  # whoever tells it is gone
        os._exit(1)
    own = os.getpid()
    inner = _forked(lambda: _hold_program(own, program, term_s, began_s), _PARENT_GONE)
    _hold(parent, inner, term_s, began_s)


def _hold_program(parent: int, program: list[bytes], term_s: float, began_s: float) -> None:
    failures, failed = os.pipe()  # the kernel closes it when the program has begun
    child = _forked(lambda: _become(program, failed), signal.SIGKILL)
    os.close(failed)
    code = os.read(failures, select.PIPE_BUF)
    _tell(-int(code) if code else child)
    _hold(parent, child, term_s, began_s)


def _hold(parent: int, child: int, term_s: float, began_s: float) -> NoReturn:
    """Hold a child, and end when nothing is left."""
    for name in _listed("/proc/self/fd"):  # what is open beyond stderr is the program's alone
        if int(name) > _STDERR:
            with suppress(OSError):
                os.close(int(name))
    Strand(parent, child, term_s, began_s).hold()
    os._exit(0)


def _become(program: list[bytes], failed: int) -> NoReturn:
    """Become the program, in a session of its own, or tell why not."""
    os.setsid()
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python
        signal.signal(ignored, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (_STDIN, _REPORT):
        os.dup2(nothing, number)
    try:
        os.execvp(program[0], program)  # noqa: S606 - the argument is a list
    except OSError as error:
        os.write(failed, b"%d" % (error.errno or 0))
        os._exit(1)


def _forked(begin: Callable[[], None], number: int) -> int:
    """Return a child that begins so, below which nobody is lost, and which ends by a signal.

    Args:
        begin: does not return.
        number: of the signal that the child gets when this process is gone.
    """
    if _prctl is not None:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    own = os.getpid()
    child = os.fork()
    if child == 0:
        _end_with(own, number)
        begin()
    return child


def _end_with(parent: int, number: int) -> None:
    """Get a signal when the parent is gone, also where it is gone already."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _tell(number: int) -> None:
    with suppress(OSError):  # nobody hears
        os.write(_REPORT, b"%d\n" % number)


def _descendants() -> list[int]:
    """Return everything that runs below this process. Source: proc(5), stat."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdecimal, _listed("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:  # noqa: PTH123 - pathlib takes long to load
            parent = int(stat.read().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    level = [os.getpid()]
    while level := [child for pid in level for child in children.get(pid, ())]:
        found += level
    return found


def _in_memory(pid: int) -> set[int]:
    """Return the inodes of the files in memory that a process has: some by a name that is gone.

    Source: proc(5), maps and fd; glibc, nptl/sem_open.c.
    """
    found: set[int] = set()
    with suppress(OSError), open(f"/proc/{pid}/maps", "rb") as maps:  # noqa: PTH123 - as above
        found |= {int(line.split()[4]) for line in maps if _MAPPED in line}
    with suppress(OSError):
        for file in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.readlink(file).startswith(f"{_MEMORY}/"):  # noqa: PTH115 - as above
                    found.add(file.stat().st_ino)
    return found


def _is_last(pid: int) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as line:  # noqa: PTH123 - as above
        return any(name in words for words in line for name in _LAST)
    return False


def _listed(folder: str) -> list[str]:
    """Return the names in a folder of proc(5); nothing elsewhere than on Linux."""
    with suppress(FileNotFoundError):
        return os.listdir(folder)  # noqa: PTH208 - pathlib takes long to load
    return []


if __name__ == "__main__":
    main(sys.argv)
