"""Processes that `serve` starts: none outlives this one, and each is ended in good order.

Each is held by a tether, a program of its own: see `llava_pack.serve.tether`.
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llava_pack.format.errors import PackError, ServeError, reason_of
from llava_pack.profiles.profile import Launch
from llava_pack.serve.engines.client import EngineAddress
from llava_pack.serve.nodes.others import Alone, Others
from llava_pack.serve.run_state import TERM_S

_log = logging.getLogger(__name__)
_DUMP_S = 2.0
_REAP_S = 2.0
_TETHER = Path(__file__).with_name("tether.py")
_ERROR_LINE = "ERROR "


@dataclass(frozen=True, kw_only=True)
class ProcessCommand:
    """How a process is started."""

    argv: tuple[str, ...]
    """The program and its arguments."""
    environment: Mapping[str, str]
    """The whole environment of the process."""
    directory: Path
    """Where it stands."""
    descriptors: tuple[int, ...] = ()
    """What of ours stays open in it."""
    term_s: float = TERM_S
    """Seconds that it gets when it is told to end, and that get its children when it has ended."""


@dataclass(frozen=True, kw_only=True)
class EngineCommand:
    """How an engine process is started."""

    name: str
    """The name for `model` in the API."""
    argv: tuple[str, ...]
    """The program and its arguments; it is asked at `address`."""
    address: EngineAddress
    """Where it is asked, once it listens."""
    environment: Mapping[str, str]
    """The whole environment of the process."""
    term_s: float = TERM_S
    """Seconds that it gets when it is told to end."""
    launch: Launch | None = None
    """Of an engine of others: what its arguments are made of at each start, see
    `llava_pack.serve.supervision.foreign`."""
    others: Others = field(default_factory=Alone)
    """The other machines that hold its model."""

    @property
    def program(self) -> ProcessCommand:
        """The process."""
        return ProcessCommand(
            argv=self.argv,
            environment=self.environment,
            directory=self.address.socket.parent,
            term_s=self.term_s,
        )


def python_program(module: str) -> tuple[str, ...]:
    """Return how one of our modules is run: isolated, and saying where it hangs when aborted."""
    compiled = (("-B",) if sys.dont_write_bytecode else ()) + (
        ("-X", f"pycache_prefix={sys.pycache_prefix}") if sys.pycache_prefix else ()
    )
    return (sys.executable, "-I", *compiled, "-X", "faulthandler", "-m", module)


class Process:
    """A program that runs, and the tether that holds it.

    Args:
        tether: just started, and not heard since it told the program's number.
        pid: the program's process number.
        term_s: seconds that the tether gives what is told to end.
    """

    def __init__(self, tether: asyncio.subprocess.Process, pid: int, term_s: float) -> None:
        self.pid = pid
        """Of the program itself."""
        self.returncode: int | None = None
        """What the program ended with, as in `subprocess`; None while it runs."""
        self.term_s = term_s
        """Seconds that what is told to end gets."""
        self._tether = tether
        self._ended = asyncio.Event()
        self._gone = asyncio.create_task(self._hear())

    @property
    def stderr(self) -> asyncio.StreamReader | None:
        """What it writes there."""
        return self._tether.stderr

    async def wait(self) -> None:
        """Wait for the end of the program itself."""
        await self._ended.wait()

    async def gone(self, within_s: float) -> bool:
        """Wait so long for the end of all that it started, and return whether it came."""
        await asyncio.wait({self._gone}, timeout=within_s)
        return self._gone.done()

    def tell(self, number: signal.Signals) -> None:
        """Have the tether pass on a signal, also one that was stopped."""
        with contextlib.suppress(ProcessLookupError):
            self._tether.send_signal(number)
            self._tether.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Have the tether kill everything, whichever of its strands is left."""
        if not self._gone.done():
            _kill(self._tether)

    async def _hear(self) -> None:
        if self._tether.stdout is not None:
            if line := await self._tether.stdout.readline():
                self.returncode = int(line)
                self._ended.set()
            await self._tether.stdout.read()
        await self._tether.wait()
        if self.returncode is None:  # both strands were killed
            self.returncode = self._tether.returncode
            self._ended.set()


async def start(program: ProcessCommand, what: str) -> Process:
    """Start a process in a session of its own, tied to this one's life by a tether.

    The kernel watches the thread that starts it, so that has to be the main one.

    Args:
        program: the process; its stderr can be read.
        what: it is, for the error, and for whoever lists processes.

    Raises:
        ServeError: it cannot be started.
    """
    held = (what, str(os.getpid()), str(program.term_s), str(len(program.argv)))
    try:
        tether = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", _TETHER, *held),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=dict(program.environment),
            cwd=program.directory,
            pass_fds=program.descriptors,
            start_new_session=True,
        )
        return Process(tether, await _begun(tether, program.argv), program.term_s)
    except OSError as error:
        why = reason_of(error)
        raise ServeError(f"cannot start {what}: {why}", subject=program.argv[0]) from error


async def _begun(tether: asyncio.subprocess.Process, argv: Sequence[str]) -> int:
    """Tell a tether what it holds, and return the process number of that.

    Raises:
        OSError: it cannot be started.
    """
    said = b""
    try:
        if tether.stdin is not None and tether.stdout is not None:
            tether.stdin.writelines(os.fsencode(word) + b"\0" for word in argv)
            tether.stdin.close()
            said = await tether.stdout.readline()
    except BaseException:
        _kill(tether)
        raise
    pid = int(said or -errno.EPIPE)
    if pid < 0:
        await tether.wait()
        raise OSError(-pid, os.strerror(-pid))
    return pid


def _kill(tether: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGQUIT, signal.SIGCONT):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(tether.pid, number)


async def end(process: Process, *, force: bool = False) -> None:
    """End a process and what it started: told to first, unless `force`; then killed.

    One that the kernel keeps, within a driver that hangs, is left to it: waiting would not help.
    """
    if not force:
        if process.returncode is None:
            process.tell(signal.SIGTERM)
        await process.gone(process.term_s)
    process.kill()
    if not await process.gone(_REAP_S):
        _log.error("process %d was killed but has not exited: it hangs in the kernel", process.pid)


async def ended(process: Process, within_s: float) -> bool:
    """Wait for the end of a process for so long, and return whether it came."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await process.wait()
    return process.returncode is not None


async def dump(process: Process) -> None:
    """Make a process that hangs say where, on its stderr, and end; also one that was stopped.

    Source: Python's faulthandler, which it is started with.
    """
    process.tell(signal.SIGABRT)
    await ended(process, _DUMP_S)
    await end(process, force=True)


def cause_of_death(
    whose: str, pid: int, returncode: int | None, lines: Sequence[str], *, subject: str = ""
) -> PackError:
    """Return the error for a process that has ended, or that can no longer be reached.

    Args:
        whose: `its engine` or `the gateway`.
        pid: its process number.
        returncode: what it ended with; None where it has not.
        lines: the last ones of its stderr.
        subject: name of its model.
    """
    if (error := own_error(returncode, lines)) is not None:
        return error
    hint = "\n".join(line for line in lines if line.strip())
    if returncode == -signal.SIGKILL:
        hint = (
            "the kernel kills processes when memory runs out: see `dmesg`; a smaller --context and "
            "fewer --slots need less, and so does --load-4bit with llava-pack's engine"
        )
    return ServeError(f"{whose}, process {pid}, {fate(returncode)}", subject=subject, hint=hint)


def fate(returncode: int | None) -> str:
    """Return what became of a process.

    Args:
        returncode: what it ended with; None where it has not.

    >>> fate(3), fate(-9), fate(None)
    ('exited with code 3', 'was killed by SIGKILL', 'stopped responding')
    """
    if returncode is None:
        return "stopped responding"
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"exited with code {returncode}"


def own_error(returncode: int | None, lines: Sequence[str]) -> PackError | None:
    """Return the error that a process ended with, by its exit code and its last words.

    An engine tells its error to whoever is connected; this is for one that ended too soon.

    Args:
        returncode: of the process.
        lines: the last ones of its stderr; an error's first line begins with ERROR.

    >>> type(own_error(13, ["ERROR llava_pack.engine.process.loop: no such folder"])).__name__
    'CheckpointError'
    """
    kinds = {int(kind.exit_code): kind for kind in PackError.__subclasses__()}
    starts = [n for n, line in enumerate(lines) if line.startswith(_ERROR_LINE)]
    if returncode not in kinds or not starts:
        return None
    text = "\n".join(lines[starts[-1] :]).removeprefix(_ERROR_LINE)
    return kinds[returncode](text.partition(": ")[2])
