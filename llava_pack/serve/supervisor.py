"""`serve` as one run: listen, start the engines, answer, and leave nothing behind.

The port is taken first, so that a wrong one is known before anything is loaded. The first signal
lets what runs end for a few seconds, the second ends everything at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from llava_pack.engine.port import EngineInfo
from llava_pack.format.errors import ServeError
from llava_pack.format.progress import Progress
from llava_pack.serve.access import AccessPolicy
from llava_pack.serve.engines import SupervisedEngine
from llava_pack.serve.models import Status
from llava_pack.serve.process import EngineCommand
from llava_pack.serve.scratch import Scratch
from llava_pack.serve.state import RunState, publish

_DRAIN_S = 5.0
_CLOSE_S = 1
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True, kw_only=True)
class ServePlan:
    """Everything that one run needs to know."""

    listening: socket.socket
    """Bound, and closed at the end of the run."""
    commands: Callable[[Scratch], Sequence[EngineCommand]]
    """How the engines are started, given where their sockets go."""
    policy: AccessPolicy
    """Who may ask."""
    state: RunState
    """What `chat` and `health` are told."""
    state_directory: Path
    """Where they are told."""
    web: bool
    """Whether the page is served."""


Announce = Callable[[tuple[EngineInfo, ...]], None]


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the supervisor decides what a signal means."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(plan: ServePlan, announce: Announce, progress: Progress) -> int:
    """Serve until told to end and return the exit code.

    Args:
        plan: what to serve, and where.
        announce: called once, when every model is ready.
        progress: hears what is loaded, and what goes wrong later.

    Raises:
        PackError: an engine could not be started.
    """
    with Scratch() as scratch, contextlib.closing(plan.listening), _removed(plan.state.socket):
        _settle_environment(scratch)
        with contextlib.chdir(scratch.empty):
            return asyncio.run(_Run(plan, scratch, progress).serve(announce))


class _Run:
    def __init__(self, plan: ServePlan, scratch: Scratch, progress: Progress) -> None:
        self._plan = plan
        self._scratch = scratch
        self._progress = progress
        self._told = asyncio.Event()
        self._forced = asyncio.Event()
        self._signal = 0
        hear = _StatusLog(progress).take
        self._engines = [SupervisedEngine(command, hear) for command in plan.commands(scratch)]

    async def serve(self, announce: Announce) -> int:
        """Serve, and return the exit code: a signal's only where it had to be forced."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        publication = publish(self._plan.state_directory, self._plan.state)
        tasks = [asyncio.create_task(engine.run()) for engine in self._engines]
        await asyncio.sleep(0)  # the engines are forked before other threads begin to import
        try:
            server = await self._server()
            tasks.append(asyncio.create_task(server.serve([self._plan.listening])))
            await self._serve(server, tasks, announce)
        finally:
            publication.withdraw()
            force = self._forced.is_set()
            await asyncio.gather(*(engine.stop(force=force) for engine in self._engines))
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            task.result()
        if not self._told.is_set():
            raise ServeError("the gateway ended by itself", hint="start it again with `serve`")
        return 128 + self._signal if self._forced.is_set() else 0

    async def _serve(
        self, server: uvicorn.Server, tasks: Sequence[asyncio.Task[None]], announce: Announce
    ) -> None:
        """Serve until told to end, or until one of the tasks has ended."""
        told = asyncio.create_task(self._told.wait())
        ready = asyncio.create_task(self._all_ready())
        try:
            await asyncio.wait({told, ready, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                announce(tuple(e.info for e in self._engines if e.info is not None))
                await asyncio.wait({told, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            await self._drain()
        finally:
            ready.cancel()
            told.cancel()
            server.should_exit = True
            server.force_exit = self._forced.is_set()

    async def _all_ready(self) -> None:
        for engine in self._engines:
            await engine.ready.wait()

    async def _server(self) -> uvicorn.Server:
        from llava_pack.serve.app import GatewaySettings, create_app

        models = {engine.name: engine for engine in self._engines}
        settings = GatewaySettings(
            policy=self._plan.policy,
            web_folder=self._scratch.uploads if self._plan.web else None,
            bundle_id=self._plan.state.bundle_id,
        )
        app = await asyncio.to_thread(create_app, models, settings)
        return _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                timeout_graceful_shutdown=_CLOSE_S,
            )
        )

    async def _drain(self) -> None:
        """Let what runs end for a few seconds."""
        # What is cut off after that is no error to be told with a traceback.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        for engine in self._engines:
            engine.refuse()
        until_s = time.monotonic() + _DRAIN_S
        while time.monotonic() < until_s and not self._forced.is_set():
            if not any(engine.in_flight for engine in self._engines):
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    def _on_signal(self, number: int) -> None:
        if self._told.is_set():
            self._forced.set()
            return
        self._signal = number
        self._told.set()
        self._progress.note("stopping; once more to stop at once")


def _settle_environment(scratch: Scratch) -> None:
    """Keep the page's files private, and libraries from telling anybody outside what happens."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]
    os.environ["GRADIO_TEMP_DIR"] = str(scratch.uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


@contextmanager
def _removed(socket_path: str | None) -> Iterator[None]:
    """Remove the Unix socket at the end of a run."""
    try:
        yield
    finally:
        if socket_path is not None:
            Path(socket_path).unlink(missing_ok=True)


class _StatusLog:
    """Turns what engines say of themselves into progress for people."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._phase: dict[str, str] = {}
        self._done_bytes = 0

    def take(self, name: str, status: Status) -> None:
        """Show one change."""
        step = f"{status.phase} {status.detail}".strip()
        if self._phase.get(name) != step:
            if self._phase.get(name, "").startswith("loading "):
                self._progress.done()
            self._phase[name] = step
            self._done_bytes = 0
            if status.phase == "loading" and status.detail:
                self._progress.start(f"{name}: {status.detail}", status.total_bytes or None)
            elif status.phase == "restarting":
                self._progress.note(f"{name}: {step}")
        if status.done_bytes > self._done_bytes:
            self._progress.advance(status.done_bytes - self._done_bytes)
            self._done_bytes = status.done_bytes
