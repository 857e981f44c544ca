"""The models of one run: a mapping by name, in which models come, go and change places.

One model's coming and going touches no other: each has an engine process of its own, and only
the entry of its name changes.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from llava_pack.format.errors import ServeError, UsageError
from llava_pack.serve.care import Care
from llava_pack.serve.feed import News
from llava_pack.serve.port import Status
from llava_pack.serve.subprocesses import EngineCommand
from llava_pack.serve.supervision.engine import SupervisedEngine
from llava_pack.serve.supervision.engine_process import Proof
from llava_pack.serve.supervision.plans import EnginePlan, longest_term_s

_LOOK_EVERY_S = 0.1

Commander = Callable[[EnginePlan, int], EngineCommand]
"""Says how a plan's engine is started; the number is its own, for its socket."""
Prover = Callable[[EnginePlan], Proof | None]
"""Says what a plan's model must answer before it counts as ready."""


class Front(Protocol):
    """The gateway, as those who change the models see it."""

    def in_flight(self, engine: int) -> int:
        """Return how many requests of an engine are being answered."""

    def changed(self) -> None:
        """Tell it at once how the models stand."""

    async def told(self) -> None:
        """Wait until it goes by how the models stand now."""


class Fleet(Mapping[str, SupervisedEngine]):
    """The models that are served.

    Args:
        command: how an engine is started.
        prover: what a model must answer before it counts as ready.
        care: how engines are looked after.
        front: the gateway, which is told what changes.
        on_status: hears every change of every model.
        numbers: one for each engine, of which no other engine of the run has one.
    """

    def __init__(
        self,
        command: Commander,
        prover: Prover,
        care: Care,
        front: Front,
        on_status: Callable[[str, Status], None],
        numbers: Iterator[int] | None = None,
    ) -> None:
        self._command = command
        self._prover = prover
        self._care = care
        self._front = front
        self._on_status = on_status
        self._numbers = numbers or itertools.count()
        self._engines: dict[str, SupervisedEngine] = {}
        self._tasks: dict[SupervisedEngine, asyncio.Task[None]] = {}
        self._plans: dict[str, EnginePlan] = {}
        self._changing = asyncio.Lock()
        self._closed = False

    def __getitem__(self, name: str) -> SupervisedEngine:
        return self._engines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._engines))

    def __len__(self) -> int:
        return len(self._engines)

    @property
    def busy(self) -> bool:
        """Return whether a request is being answered."""
        alive = (engine for engine, task in self._tasks.items() if not task.done())
        return any(self._front.in_flight(engine.number) for engine in alive)

    @property
    def news(self) -> tuple[News, ...]:
        """Return how every model stands."""
        return tuple(engine.news for engine in self._engines.values())

    @property
    def term_s(self) -> float:
        """Seconds that its engines may take to end."""
        return longest_term_s(self._plans.values())

    def launch(self, plan: EnginePlan) -> asyncio.Task[None]:
        """Begin to start a model and return the task that keeps it running.

        Raises:
            UsageError: there is one of that name.
            ServeError: the run ends.
        """
        if self._closed:
            raise ServeError("the server is shutting down")
        if plan.name in self._engines:
            raise UsageError(
                f"a model with that name is already being served: {plan.name}",
                hint=f"llava-pack stop {plan.name}, or llava-pack swap",
            )
        number = next(self._numbers)
        engine = SupervisedEngine(
            self._command(plan, number),
            self._hear,
            number=number,
            care=self._care,
            proof=self._prover(plan),
        )
        task = asyncio.create_task(engine.run(), name=f"model {plan.name}")
        self._engines[plan.name], self._plans[plan.name] = engine, plan
        self._tasks[engine] = task
        self._front.changed()
        return task

    async def ready(self) -> None:
        """Wait until every model is ready.

        Raises:
            PackError: one of them could not be started.
        """
        for name in self:
            await self._ready(name)

    async def start(self, plan: EnginePlan) -> None:
        """Start one more model and wait until it is ready; one that fails leaves no trace.

        Raises:
            UsageError: there is one of that name.
            PackError: it could not be started.
        """
        async with self._changing:
            self.launch(plan)
            await self._settle(plan.name)
            await self._front.told()

    async def stop(self, name: str, drain_s: float) -> None:
        """Stop one model: what runs may end within `drain_s`, then it is cut.

        Raises:
            UsageError: there is none of that name, or it is the last one.
        """
        async with self._changing:
            self._known(name)
            if len(self) == 1:
                raise UsageError(
                    f"{name} is the only model here",
                    hint="llava-pack stop ends the server; llava-pack swap replaces the model",
                )
            await self._retire(name, drain_s)

    async def swap(self, name: str, plan: EnginePlan, drain_s: float) -> None:
        """Put another model in one's place: that one ends first, for both may not fit.

        Where the new one cannot be started, the old one is started again.

        Raises:
            UsageError: there is none of that name, or one of the new name.
            PackError: the new one could not be started; the old one serves again.
        """
        async with self._changing:
            self._known(name)
            if plan.name != name and plan.name in self._engines:
                raise UsageError(f"a model with that name is already being served: {plan.name}")
            before = self._plans[name]
            await self._retire(name, drain_s)
            self.launch(plan)
            try:
                await self._settle(plan.name)
            except BaseException:
                self.launch(before)
                await self._settle(before.name)
                raise
            finally:
                await self._front.told()

    def refuse(self) -> None:
        """Take nothing new; what runs goes on."""
        for engine in self.values():
            engine.refuse()

    async def close(self, *, force: bool) -> None:
        """End every engine and wait for it; no other is started any more."""
        self._closed = True
        await asyncio.gather(*(engine.stop(force=force) for engine in self._tasks))
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def kill(self) -> None:
        """Kill every engine, and wait for nothing."""
        for engine in self._tasks:
            engine.kill()

    def _known(self, name: str) -> None:
        if name not in self._engines:
            raise UsageError(
                f"no model {name!r} is served here; served: {', '.join(self)}",
                hint="llava-pack status",
            )

    async def _ready(self, name: str) -> None:
        """Wait until a model is ready, or raise what it failed with."""
        engine = self._engines[name]
        task = self._tasks[engine]
        waiting = asyncio.create_task(engine.ready.wait())
        try:
            await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
            if not engine.ready.is_set():
                task.result()
                raise ServeError("it was stopped before it was ready", subject=name)
        finally:
            waiting.cancel()

    async def _settle(self, name: str) -> None:
        """Wait until a model is ready; take it out where it fails."""
        try:
            await self._ready(name)
        except BaseException:
            engine = self._engines.pop(name)
            self._front.changed()
            await self._end(engine)
            raise

    async def _retire(self, name: str, drain_s: float) -> None:
        engine = self._engines.pop(name)
        engine.refuse()
        self._front.changed()
        await self._front.told()
        await idle(lambda: not self._front.in_flight(engine.number), drain_s)
        await self._end(engine)

    def _hear(self, name: str, status: Status) -> None:
        self._front.changed()
        self._on_status(name, status)

    async def _end(self, engine: SupervisedEngine) -> None:
        await engine.stop()
        await asyncio.gather(self._tasks.pop(engine), return_exceptions=True)


async def idle(settled: Callable[[], bool], within_s: float) -> None:
    """Wait until something has settled, or the time is over."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s and not settled():  # noqa: ASYNC110 - counters, no events
        await asyncio.sleep(_LOOK_EVERY_S)


class FleetMember(Protocol):
    """What stands somewhere: an engine here, or a replica."""

    @property
    def name(self) -> str:
        """What people know it by."""

    @property
    def status(self) -> Status:
        """Where it stands."""


def phases(models: Iterable[FleetMember]) -> str:
    """Return where models stand, as one line.

    Args:
        models: in their order.
    """
    said = []
    for model in models:
        status = model.status
        share = f" {100 * status.done_bytes // status.total_bytes} %" if status.total_bytes else ""
        said.append(f"{model.name} {status.phase} {status.detail}".strip() + share)
    return "; ".join(said)
