"""`serve` as one run: start engines and gateway, watch them, and leave nothing behind.

This process answers nobody: what strangers send is read by the gateway, which is a process of its
own, and so this one is there to end and replace it. The port is taken first, so that a wrong one is
known before anything is loaded. The first signal lets what runs end for a while, the second ends
everything at once.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from llava_pack.engine.fence.value import FenceMode
from llava_pack.engine.port import EngineInfo
from llava_pack.format.progress import Progress
from llava_pack.serve.access.audit import AuditPlan
from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.aliases import Aliases
from llava_pack.serve.care import Care
from llava_pack.serve.feed import Start
from llava_pack.serve.logfile import kept
from llava_pack.serve.nodes.crew import Crew
from llava_pack.serve.port import Status
from llava_pack.serve.run_state import Publication, RunState, publish
from llava_pack.serve.subprocesses import EngineCommand
from llava_pack.serve.supervision.commands import engine_command
from llava_pack.serve.supervision.control import ControlServer
from llava_pack.serve.supervision.ending import Ending
from llava_pack.serve.supervision.fleet import Fleet, Prover, idle, phases
from llava_pack.serve.supervision.gateway import SupervisedGateway
from llava_pack.serve.supervision.gateway_process import (
    GATEWAY_PROGRAM,
    GatewayPlan,
    gateway_environment,
)
from llava_pack.serve.supervision.plans import EnginePlan
from llava_pack.serve.supervision.progress import Narration
from llava_pack.serve.supervision.replicas import Replicas, ReplicasPlan
from llava_pack.serve.supervision.run_folder import Scratch
from llava_pack.serve.supervision.systemd import Notifier

_log = logging.getLogger(__name__)


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
    """How engines and the gateway are looked after."""
    policy: AccessPolicy
    """Who may ask."""
    audit: AuditPlan = field(default_factory=AuditPlan)
    """Where is written which key asked what."""
    state: RunState
    """What `chat` and `health` are told."""
    state_directory: Path
    """Where they are told."""
    web: bool
    """Whether the page is served."""
    crew: Crew | None = None
    """The other machines that hold the model; None for none."""
    picture_root: Path | None = None
    """The folder below which pictures may be named by file:// URLs, resolved; None allows none."""
    aliases: Aliases = field(default_factory=dict)
    """Further names of the models in the API."""
    fence: FenceMode = "on"
    """Whether a fence is raised around the gateway, and whether it has to be whole."""
    gateway_argv: tuple[str, ...] = GATEWAY_PROGRAM
    """How the gateway is started."""
    log: Path | None = None
    """Where the log is kept; None keeps none."""
    notifier: Notifier = field(default_factory=Notifier)
    """Who tells systemd."""
    replicas: ReplicasPlan = field(default_factory=ReplicasPlan)
    """Other servers of the same model."""


Announce = Callable[[tuple[EngineInfo, ...]], None]


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
        return asyncio.run(_Run(plan, scratch, progress).serve(announce))


class _Run:
    def __init__(self, plan: ServePlan, scratch: Scratch, progress: Progress) -> None:
        self._plan = plan
        self._scratch = scratch
        self._progress = progress
        self._ending = Ending(progress)
        self._announced = False
        self._log = Narration(progress)
        self._gateway = SupervisedGateway(
            _gateway_plan(plan, scratch),
            _start(plan, scratch),
            lambda: self._fleet.news + self._replicas.news,
            progress.note,
        )
        numbers = itertools.count()
        self._fleet = Fleet(
            lambda wanted, number: plan.command(wanted, scratch.socket(number)),
            plan.prover,
            plan.care,
            self._gateway,
            self._hear,
            numbers,
        )
        self._replicas = Replicas(plan.replicas, scratch.socket, numbers, self._gateway, self._hear)

    async def serve(self, announce: Announce) -> int:
        """Serve, and return the exit code: a signal's only where it had to be forced."""
        self._ending.listen()
        state = replace(self._plan.state, control=str(self._scratch.control))
        publication = publish(self._plan.state_directory, state)
        _log.info("serving %s, process %d", ", ".join(state.models), os.getpid())
        tasks = [self._fleet.launch(plan) for plan in self._plan.plans]
        self._replicas.begin()
        tasks.append(asyncio.create_task(self._gateway.run(), name="gateway"))
        watchdog = asyncio.create_task(self._feed_watchdog())
        enforcing = asyncio.create_task(self._enforce())
        control = ControlServer(
            self._fleet,
            self._replicas,
            self._plan.state.drain_s,
            lambda: self._changed(publication, state),
        )
        try:
            crew = self._plan.crew.serve() if self._plan.crew else contextlib.nullcontext()
            async with crew, control.serve(self._scratch.control):
                await self._serve(tasks[-1], announce)
        finally:
            publication.withdraw()
            await self._close()
            for task in (watchdog, enforcing):
                task.cancel()
            await asyncio.gather(watchdog, enforcing, *tasks, return_exceptions=True)
        for task in tasks:
            task.result()
        return self._ending.exit_code

    async def _serve(self, gateway: asyncio.Task[None], announce: Announce) -> None:
        """Serve until told to end, or until the start of the gateway or of a model has failed."""
        told = asyncio.create_task(self._ending.told.wait())
        ready = asyncio.create_task(self._ready())
        try:
            await asyncio.wait({told, ready, gateway}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and ready.exception() is None:
                self._announced = True
                self._plan.notifier.ready(self._phases)
                announce(self._infos)
                await asyncio.wait({told, gateway}, return_when=asyncio.FIRST_COMPLETED)
            await self._drain()
        finally:
            ready.cancel()
            told.cancel()
            await asyncio.gather(ready, told, return_exceptions=True)

    async def _ready(self) -> None:
        """Wait until every model is ready, and the gateway answers for it."""
        await self._fleet.ready()
        if not self._fleet:
            await self._replicas.ready()
        await self._gateway.answers.wait()
        await self._gateway.told()

    async def _drain(self) -> None:
        """Let what runs end for a while."""
        self._plan.notifier.stopping(self._plan.state.drain_s + self._fleet.term_s)
        _log.info("shutting down")
        for models in (self._fleet, self._replicas):
            models.refuse()
        await idle(
            lambda: not (self._fleet.busy or self._replicas.busy) or self._ending.forced.is_set(),
            self._plan.state.drain_s,
        )

    @property
    def _phases(self) -> str:
        return phases([*self._fleet.values(), *self._replicas.values()])

    @property
    def _infos(self) -> tuple[EngineInfo, ...]:
        """What each model said of itself, in the order of the run state's."""
        infos = [one.info for one in self._fleet.values()] or [self._replicas.info]
        return tuple(info for info in infos if info is not None)

    async def _close(self) -> None:
        """End gateway and engines, each within seconds; whoever hangs is killed."""
        force = self._ending.forced.is_set()
        await asyncio.gather(self._gateway.stop(force=force), self._fleet.close(force=force))
        await self._replicas.close()

    async def _enforce(self) -> None:
        """Kill everything once it is forced, whatever is waited for elsewhere."""
        await self._ending.forced.wait()
        self._gateway.kill()
        self._fleet.kill()

    async def _feed_watchdog(self) -> None:
        """Tell the watchdog that engines and gateway move, or rest; never that we do."""
        every_s = self._plan.notifier.every_s
        while every_s is not None:
            stalled = any(engine.vitals.stalled for engine in self._fleet.values())
            if not (stalled or self._gateway.stalled):
                self._plan.notifier.alive()
            await asyncio.sleep(every_s)

    def _hear(self, name: str, status: Status) -> None:
        self._log.take(name, status)
        said = self._phases
        if self._announced or self._ending.told.is_set():
            self._plan.notifier.status(said)
        else:
            self._plan.notifier.loading(said)

    def _changed(self, publication: Publication, state: RunState) -> None:
        models = tuple(self._fleet) or state.models
        replicas, term_s = tuple(self._replicas), self._fleet.term_s
        publication.update(replace(state, models=models, replicas=replicas, term_s=term_s))


def _gateway_plan(plan: ServePlan, scratch: Scratch) -> GatewayPlan:
    return GatewayPlan(
        listening=plan.listening,
        directory=scratch.empty,
        environment=gateway_environment(os.environ, scratch.temporary),
        care=plan.care,
        argv=plan.gateway_argv,
    )


def _start(plan: ServePlan, scratch: Scratch) -> Start:
    return Start(
        policy=plan.policy,
        audit=plan.audit,
        web=plan.web,
        bundle_id=plan.state.bundle_id,
        aliases=plan.aliases,
        queue=plan.care.queue,
        restarts=0,
        log=plan.log,
        fence=plan.fence,
        home=scratch.gateway_home,
        left={},
        picture_root=plan.picture_root,
    )


@contextmanager
def _removed(socket_path: str | None) -> Iterator[None]:
    """Remove the Unix socket at the end of a run."""
    try:
        yield
    finally:
        if socket_path is not None:
            Path(socket_path).unlink(missing_ok=True)
