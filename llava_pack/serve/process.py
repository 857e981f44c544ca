"""Engine processes: started so that none outlives this one, and ended in good order."""

import asyncio
import contextlib
import ctypes
import functools
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_pack.format.errors import PackError, ServeError

_PR_SET_PDEATHSIG = 1  # Source: linux/prctl.h
_TERM_S = 5.0
_DUMP_S = 2.0
_ERROR_LINE = "ERROR "
_prctl = getattr(ctypes.CDLL(None), "prctl", None)  # looked up before any fork


@dataclass(frozen=True, kw_only=True)
class EngineCommand:
    """How an engine process is started."""

    name: str
    """The name for `model` in the API."""
    argv: tuple[str, ...]
    """The program and its arguments; it serves the engine protocol at `socket`."""
    socket: Path
    """Where it will listen."""
    environment: Mapping[str, str]
    """The whole environment of the process."""


async def start(command: EngineCommand) -> Process:
    """Start the process in a session of its own, tied to this one's life by the kernel."""
    try:
        return await asyncio.create_subprocess_exec(
            *command.argv,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
            env=dict(command.environment),
            cwd=command.socket.parent,
            start_new_session=True,
            preexec_fn=functools.partial(_die_with, os.getpid()),
        )
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ServeError(f"cannot start the engine: {why}", subject=command.argv[0]) from error


def _die_with(parent: int) -> None:
    """Ask the kernel to end this process with its parent; before exec, so that none slips by."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


async def end(process: Process, *, force: bool = False) -> None:
    """End a process: told to first, unless `force`; killed when it does not listen."""
    with contextlib.suppress(ProcessLookupError):
        if process.returncode is None and not force:
            process.terminate()
            try:
                async with asyncio.timeout(_TERM_S):
                    await process.wait()
            except TimeoutError:
                force = True
        if process.returncode is None and force:
            process.kill()
    await process.wait()


async def dump(process: Process) -> None:
    """Make a process that hangs say where, on its stderr, and end.

    Source: Python's faulthandler, which the engine is started with.
    """
    with contextlib.suppress(ProcessLookupError, TimeoutError):
        process.send_signal(signal.SIGABRT)
        async with asyncio.timeout(_DUMP_S):
            await process.wait()
    await end(process, force=True)


def cause_of_death(name: str, process: Process, lines: Sequence[str]) -> PackError:
    """Return the error for an engine that has ended, or that can no longer be reached.

    Args:
        name: of its model.
        process: the engine's.
        lines: the last ones of its stderr.
    """
    returncode = process.returncode
    if (error := own_error(returncode, lines)) is not None:
        return error
    how = f"ended with exit code {returncode}" if returncode is not None else "went silent"
    if returncode is not None and returncode < 0:
        how = f"was ended by {signal.Signals(-returncode).name}"
    hint = "\n".join(line for line in lines if line.strip())
    if returncode == -signal.SIGKILL:
        hint = "the kernel ends processes when memory runs out: see `dmesg`, or take --load-4bit"
    return ServeError(f"its engine, process {process.pid}, {how}", subject=name, hint=hint)


def own_error(returncode: int | None, lines: Sequence[str]) -> PackError | None:
    """Return the error that an engine ended with, by its exit code and its last words.

    An engine tells its error to whoever is connected; this is for one that ended too soon.

    Args:
        returncode: of the process.
        lines: the last ones of its stderr; an error's first line begins with ERROR.

    >>> type(own_error(13, ["ERROR llava_pack.engine.loop: no such folder"])).__name__
    'CheckpointError'
    """
    kinds = {int(kind.exit_code): kind for kind in PackError.__subclasses__()}
    starts = [n for n, line in enumerate(lines) if line.startswith(_ERROR_LINE)]
    if returncode not in kinds or not starts:
        return None
    text = "\n".join(lines[starts[-1] :]).removeprefix(_ERROR_LINE)
    return kinds[returncode](text.partition(": ")[2])
