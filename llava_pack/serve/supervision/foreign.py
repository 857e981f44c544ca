"""Engines of others: what one start of theirs needs beside the command line. See `profiles`.

Each start has a folder of its own, private to the account, in the place of a home: sockets, caches
and what else they write go there and end with it. What they compile is kept for the next start,
where a folder of the account's alone can hold programs. One that listens at a port gets a free one
at each start, and a relay to it from the socket where the gateway asks, once it listens.
"""

import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from llava_pack.engine.fence.home import settle
from llava_pack.engine.fence.value import Standing
from llava_pack.format.errors import PreflightError
from llava_pack.profiles import launcher
from llava_pack.profiles.compiler import lacks_compiler, write_compiler
from llava_pack.profiles.profile import Launch, Profile
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.subprocesses import EngineCommand, ProcessCommand
from llava_pack.serve.supervision.relay import free_port, relayed_to_ours
from llava_pack.target import ownership

UNFENCED = Standing(why="engines other than llava-pack's own run without one")


def launcher_argv(python: Path, profile: Profile, pycache: str | None) -> tuple[str, ...]:
    """Return how an engine's interpreter runs what a profile's command line names."""
    kept = ("-X", f"pycache_prefix={pycache}") if pycache else ()
    options = ("-I", "-X", "faulthandler", *kept)
    return (str(python), *options, launcher.__file__, ",".join(profile.keys))


@asynccontextmanager
async def begun(command: EngineCommand) -> AsyncIterator[ProcessCommand]:
    """Have what an engine process needs around it while it lives, and how it is started.

    Raises:
        ServeError: the folder cannot be made, or the socket.
        PreflightError: nothing that the engine compiles would run there.
    """
    launch = command.launch
    profile = RUNTIMES[command.address.engine].profile
    if launch is None or profile is None:
        yield command.program
        return
    socket = command.address.socket
    environment = dict(command.environment)
    settle(launch.folder, environment)
    launch = replace(launch, compiled=_compiled(launch))
    try:
        _check_runs(launch, profile)
        async with contextlib.AsyncExitStack() as stack:
            if profile.way == "loopback":
                port = free_port()
                await stack.enter_async_context(relayed_to_ours(socket, port))
                launch = replace(launch, port=port)
            yield replace(
                command.program,
                argv=(*command.argv, *profile.argv(launch)),
                environment={**environment, **_surroundings(launch, profile, environment)},
            )
    finally:
        shutil.rmtree(launch.folder, ignore_errors=True)
        socket.unlink(missing_ok=True)  # which engines leave


def _compiled(launch: Launch) -> Path:
    """Return where compiled programs go: where they are kept, or else where they end with it."""
    with contextlib.suppress(OSError, PreflightError):
        for place in (*reversed(launch.compiled.parents[:2]), launch.compiled):
            place.mkdir(mode=0o700, exist_ok=True)
        ownership.check(launch.compiled)  # what lies there is run
        if not os.statvfs(launch.compiled).f_flag & os.ST_NOEXEC:
            return launch.compiled
    return launch.folder / "compiled"


def _check_runs(launch: Launch, profile: Profile) -> None:
    """Refuse a folder where no program may run, for an engine that compiles some into it.

    Raises:
        PreflightError: the file system is mounted so.
    """
    compiles = profile.loads.needs and launch.device != "cpu"
    ends = launch.folder in launch.compiled.parents
    if compiles and ends and os.statvfs(launch.folder).f_flag & os.ST_NOEXEC:
        raise PreflightError(
            "it is mounted noexec, and what the engine compiles while it serves has to run there",
            subject=str(launch.folder.parent),
            hint="TMPDIR=DIR llava-pack serve: a folder with a short name (32 bytes) where "
            "programs may run",
        )


def _surroundings(
    launch: Launch, profile: Profile, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return what an engine is told beside the usual, with a compiler where it lacks one."""
    told = dict(profile.environment(launch))
    if profile.loads.needs and lacks_compiler(launch.python, environment.get("PATH", "")):
        told |= write_compiler(launch.python, launch.compiled)
    return told
