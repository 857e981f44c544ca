"""`serve` as one run: listen, start the engines, answer, and leave nothing behind.

The port is taken first, so that a wrong one is known before anything is loaded. The first signal
lets what runs end for a while, the second ends everything at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import uvicorn

from llava_pack.engine.port import EngineInfo
from llava_pack.format.errors import ServeError
from llava_pack.format.progress import Progress
from llava_pack.serve.access import AccessPolicy
from llava_pack.serve.control import ControlServer
from llava_pack.serve.engines import Care
from llava_pack.serve.fleet import Fleet, Prover, phases
from llava_pack.serve.logfile import kept
from llava_pack.serve.models import Status
from llava_pack.serve.narration import Narration
from llava_pack.serve.notify import Notifier
from llava_pack.serve.plans import EnginePlan, engine_command
from llava_pack.serve.process import EngineCommand
from llava_pack.serve.scratch import Scratch
from llava_pack.serve.state import Publication, RunState, publish

_log = logging.getLogger(__name__)
_CLOSE_S = 1
DRAIN_S = 30.0


@dataclass(frozen=True, kw_only=True)
class ServePlan:
    """Everything that one run needs to know."""

    listening: socket.socket
    """Bound, and closed at the end of the run."""
    plans: tuple[EnginePlan, ...]
    """What is served from the start."""
    command: Callable[[EnginePlan, Path], EngineCommand] = engine_command
    """How an engine is started, given where its socket goes."""
    prover: Prover = lambda _plan: None
    """What a model must answer before it counts as ready."""
    care: Care = field(default_factory=Care)
    """How engines are looked after."""
    policy: AccessPolicy
    """Who may ask."""
    state: RunState
    """What `chat` and `health` are told."""
    state_directory: Path
    """Where they are told."""
    web: bool
    """Whether the page is served."""
    drain_s: float = DRAIN_S
    """How long what runs may take to end."""
    log: Path | None = None
    """Where the log is kept; None keeps none."""
    notifier: Notifier = field(default_factory=Notifier)
    """Who tells systemd."""


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
    with (
        kept(plan.log),
        Scratch() as scratch,
        contextlib.closing(plan.listening),
        _removed(plan.state.socket),
    ):
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
        self._announced = False
        self._log = Narration(progress)
        self._fleet = Fleet(
            lambda wanted, number: plan.command(wanted, scratch.socket(number)),
            plan.prover,
            plan.care,
            self._hear,
        )

    async def serve(self, announce: Announce) -> int:
        """Serve, and return the exit code: a signal's only where it had to be forced."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        state = replace(self._plan.state, control=str(self._scratch.control))
        publication = publish(self._plan.state_directory, state)
        _log.info("serving %s, process %d", ", ".join(state.models), os.getpid())
        tasks = [self._fleet.launch(plan) for plan in self._plan.plans]
        watchdog = asyncio.create_task(self._feed_watchdog())
        await asyncio.sleep(0)  # the engines are forked before other threads begin to import
        try:
            server = await self._server()
            gateway = asyncio.create_task(server.serve([self._plan.listening]))
            tasks.append(gateway)
            control = ControlServer(
                self._fleet, self._plan.drain_s, lambda: self._changed(publication, state)
            )
            async with await control.serve(self._scratch.control):
                await self._serve(server, gateway, announce)
        finally:
            publication.withdraw()
            await self._fleet.close(force=self._forced.is_set())
            watchdog.cancel()
            await asyncio.gather(watchdog, *tasks, return_exceptions=True)
        for task in tasks:
            task.result()
        if not self._told.is_set():
            raise ServeError("the gateway ended by itself", hint="start it again with `serve`")
        return 128 + self._signal if self._forced.is_set() else 0

    async def _serve(
        self, server: uvicorn.Server, gateway: asyncio.Task[None], announce: Announce
    ) -> None:
        """Serve until told to end, or until the gateway or a model's start has failed."""
        told = asyncio.create_task(self._told.wait())
        ready = asyncio.create_task(self._fleet.ready())
        try:
            await asyncio.wait({told, ready, gateway}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and ready.exception() is None:
                self._announced = True
                self._plan.notifier.ready(phases(self._fleet.values()))
                announce(tuple(e.info for e in self._fleet.values() if e.info is not None))
                await asyncio.wait({told, gateway}, return_when=asyncio.FIRST_COMPLETED)
            await self._drain()
        finally:
            ready.cancel()
            told.cancel()
            await asyncio.gather(ready, told, return_exceptions=True)
            server.should_exit = True
            server.force_exit = self._forced.is_set()

    async def _server(self) -> uvicorn.Server:
        from llava_pack.serve.app import GatewaySettings, create_app
        from llava_pack.serve.connections import raise_open_files, uvicorn_options
        from llava_pack.serve.refusals import Refusals

        settings = GatewaySettings(
            policy=self._plan.policy,
            web_folder=self._scratch.uploads if self._plan.web else None,
            bundle_id=self._plan.state.bundle_id,
            queue=self._plan.care.queue,
        )
        refusals = Refusals()
        app = await asyncio.to_thread(create_app, self._fleet, settings, refusals)
        raise_open_files()
        return _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                timeout_graceful_shutdown=_CLOSE_S,
                **uvicorn_options(refusals),
            )
        )

    async def _drain(self) -> None:
        """Let what runs end for a while."""
        # What is cut off after that is no error to be told with a traceback.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._plan.notifier.stopping(self._plan.drain_s)
        _log.info("stopping")
        await self._fleet.drain(self._plan.drain_s, self._forced)

    async def _feed_watchdog(self) -> None:
        """Tell the watchdog that engines move, or have nothing to do; never that we do."""
        every_s = self._plan.notifier.every_s
        while every_s is not None:
            if not any(engine.vitals.stalled for engine in self._fleet.values()):
                self._plan.notifier.alive()
            await asyncio.sleep(every_s)

    def _hear(self, name: str, status: Status) -> None:
        self._log.take(name, status)
        said = phases(self._fleet.values())
        if self._announced or self._told.is_set():
            self._plan.notifier.status(said)
        else:
            self._plan.notifier.loading(said)

    def _changed(self, publication: Publication, state: RunState) -> None:
        publication.update(replace(state, models=tuple(self._fleet)))

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
