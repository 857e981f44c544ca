"""Processes that `serve` starts: none outlives this one, and each is ended in good order."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llava_pack.engine.parent import die_with_parent
from llava_pack.format.errors import PackError, ServeError, reason_of
from llava_pack.serve.engines.client import EngineAddress
from llava_pack.serve.nodes.others import Alone, Others

_log = logging.getLogger(__name__)
_TERM_S = 5.0
_DUMP_S = 2.0
_REAP_S = 2.0
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
    others: Others = field(default_factory=Alone)
    """The other machines that hold its model."""

    @property
    def program(self) -> ProcessCommand:
        """The process."""
        return ProcessCommand(
            argv=self.argv, environment=self.environment, directory=self.address.socket.parent
        )


def python_program(module: str) -> tuple[str, ...]:
    """Return how one of our modules is run: isolated, and saying where it hangs when aborted."""
    compiled = (("-B",) if sys.dont_write_bytecode else ()) + (
        ("-X", f"pycache_prefix={sys.pycache_prefix}") if sys.pycache_prefix else ()
    )
    return (sys.executable, "-I", *compiled, "-X", "faulthandler", "-m", module)


async def start(program: ProcessCommand, what: str) -> Process:
    """Start a process in a session of its own, tied to this one's life by the kernel.

    The kernel watches the thread that starts it, so that has to be the main one.

    Args:
        program: the process; its stderr can be read.
        what: it is, for the error.

    Raises:
        ServeError: it cannot be started.
    """
    try:
        return await asyncio.create_subprocess_exec(
            *program.argv,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
            env=dict(program.environment),
            cwd=program.directory,
            pass_fds=program.descriptors,
            start_new_session=True,
            preexec_fn=functools.partial(_die_with, os.getpid()),
        )
    except OSError as error:
        why = reason_of(error)
        raise ServeError(f"cannot start {what}: {why}", subject=program.argv[0]) from error


def _die_with(parent: int) -> None:
    """Have this process end with its parent; before exec, so that none slips by."""
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)


async def end(process: Process, *, force: bool = False) -> None:
    """End a process and what it started: told to first, unless `force`; then killed.

    One that the kernel keeps, within a driver that hangs, is left to it: waiting would not help.
    """
    if not force and process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await ended(process, _TERM_S)
    kill(process)
    if not await ended(process, _REAP_S):
        _log.error("process %d was killed but has not exited: it hangs in the kernel", process.pid)


def kill(process: Process) -> None:
    """Kill a process and what it started; it leads a session, so that its group is its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


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
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGABRT)
        process.send_signal(signal.SIGCONT)
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
    how = f"exited with code {returncode}" if returncode is not None else "stopped responding"
    if returncode is not None and returncode < 0:
        how = f"was killed by {signal.Signals(-returncode).name}"
    hint = "\n".join(line for line in lines if line.strip())
    if returncode == -signal.SIGKILL:
        hint = "the kernel kills processes when memory runs out: see `dmesg`, or use --load-4bit"
    return ServeError(f"{whose}, process {pid}, {how}", subject=subject, hint=hint)


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
