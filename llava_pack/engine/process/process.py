"""An engine as a process: its private socket, its signals, and its end with its parent."""

import asyncio
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from llava_pack.engine.fence.value import Standing
from llava_pack.engine.parent import die_with_parent
from llava_pack.engine.process.loop import Load
from llava_pack.engine.process.server import BUFFER_BYTES, EngineServer
from llava_pack.format.errors import ServeError, reason_of
from llava_pack.format.exit_codes import ExitCode

_log = logging.getLogger(__name__)
_PARENT_CHECK_S = 1.0
_CUT_S = 5.0
_LAST_WORDS_S = 0.2
# A fenced engine cannot remove its socket: whoever made the folder does, or the next engine.
_KEPT: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


def run(
    load: Load,
    socket_path: Path,
    *,
    drain_s: float = 30.0,
    fence: Callable[[], Standing | None] = lambda: None,
) -> int:
    """Serve the engine that `load` returns at `socket_path` until told to end.

    SIGTERM and SIGINT drain: running requests may end within `drain_s`, new ones are refused;
    a second signal ends at once. The process ends with its parent, and when loading fails.

    Args:
        load: called once, on the engine's thread.
        socket_path: made with mode 0600; its folder, where absent, with 0700.
        drain_s: seconds that running requests get.
        fence: called once, with the socket made, nothing loaded and no other thread running;
            what it returns is told to whoever connects.

    Returns:
        The exit code: 0 after a drain, the error's where loading or stepping failed.

    Raises:
        ServeError: the socket cannot be made, or somebody serves there already; or the fence's.
    """
    parent = os.getppid()
    die_with_parent()
    listening = _listen(socket_path)
    try:
        standing = fence()
        return asyncio.run(_serve(load, listening, standing, parent=parent, drain_s=drain_s))
    finally:
        with suppress(OSError):
            socket_path.unlink()


async def _serve(
    load: Load,
    listening: socket.socket,
    standing: Standing | None,
    *,
    parent: int,
    drain_s: float,
) -> int:
    loop = asyncio.get_running_loop()
    server = EngineServer(load, standing)
    told, forced = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (forced if told.is_set() else told).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    acceptor = await asyncio.start_unix_server(
        server.connected, sock=listening, limit=BUFFER_BYTES, **_KEPT
    )
    server.thread.start()
    watch = asyncio.create_task(_watch_parent(parent, forced))
    try:
        await _first(told, forced, server.failed)
        if not (forced.is_set() or server.failed.is_set()):
            await _drain(server, forced, drain_s)
        return await _end(server)
    finally:
        watch.cancel()
        acceptor.close()


async def _drain(server: EngineServer, forced: asyncio.Event, drain_s: float) -> None:
    server.drain()
    with suppress(TimeoutError):
        await asyncio.wait_for(_first(server.quiet, forced, server.failed), drain_s)
    if not (server.quiet.is_set() or forced.is_set()):
        server.cut()
        with suppress(TimeoutError):
            await asyncio.wait_for(_first(server.quiet, forced, server.failed), _CUT_S)


async def _end(server: EngineServer) -> int:
    server.thread.stop()
    await asyncio.sleep(_LAST_WORDS_S)  # what was written reaches its readers
    error = server.thread.error
    return int(error.exit_code if error else ExitCode.OK)


async def _first(*events: asyncio.Event) -> None:
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _watch_parent(parent: int, forced: asyncio.Event) -> None:
    """End when the parent is gone, also where the kernel does not tell."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing wakes us when a parent dies
        await asyncio.sleep(_PARENT_CHECK_S)
    _log.warning("the parent process has exited: shutting down")
    forced.set()


def _listen(path: Path) -> socket.socket:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        listening.listen(64)
    except OSError as error:
        why = reason_of(error)
        raise ServeError(f"cannot create the engine's socket: {why}", subject=str(path)) from error
    return listening


def _remove_stale(path: Path) -> None:
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ServeError("exists and is not a socket", subject=str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise ServeError("an engine is already running on this socket", subject=str(path))
