"""The replicas of one run: they come and go, and nobody's answer is lost by it.

One that goes is told of no more first: the gateway asks it nothing new. What runs there ends, and
only then its relay closes.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llava_pack.engine.port import EngineInfo
from llava_pack.format.errors import ServeError, UsageError
from llava_pack.serve.feed import News
from llava_pack.serve.port import Status
from llava_pack.serve.replicas.address import (
    ReplicaAddress,
    places,
    refuse_itself,
    replica_address,
)
from llava_pack.serve.supervision.fleet import Front, idle
from llava_pack.serve.supervision.replica import Expected, SupervisedReplica

_JOIN_S = 60.0
"""How long a replica that is to come may take until it is ready."""


@dataclass(frozen=True, kw_only=True)
class ReplicasPlan:
    """Which replicas a run has from its start, and what each has to serve."""

    expected: Expected | None = None
    """None where nothing could: of several models."""
    own: str = ""
    """Where this server listens, as an address of a replica."""
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Keys of replicas that may come later, as `replica_keys` returns them."""
    replicas: tuple[ReplicaAddress, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Names of what they serve."""
        return () if self.expected is None else (self.expected.model,)

    @property
    def bundle_id(self) -> str | None:
        """Of the bundle that they serve."""
        return None if self.expected is None else self.expected.bundle_id

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where they are."""
        return tuple(one.address for one in self.replicas)


class Replicas(Mapping[str, SupervisedReplica]):
    """The replicas that are asked, by address.

    Args:
        plan: which there are from the start.
        socket: where the gateway asks one, by its number.
        numbers: one for each, which no engine of the run has.
        front: the gateway, which is told what changes.
        on_status: hears every change of every replica.
    """

    def __init__(
        self,
        plan: ReplicasPlan,
        socket: Callable[[int], Path],
        numbers: Iterator[int],
        front: Front,
        on_status: Callable[[str, Status], None],
    ) -> None:
        self._plan = plan
        self._socket = socket
        self._numbers = numbers
        self._front = front
        self._on_status = on_status
        self._replicas: dict[str, SupervisedReplica] = {}
        self._tasks: dict[SupervisedReplica, asyncio.Task[None]] = {}
        self._changing = asyncio.Lock()

    def __getitem__(self, address: str) -> SupervisedReplica:
        return self._replicas[address]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._replicas))

    def __len__(self) -> int:
        return len(self._replicas)

    @property
    def news(self) -> tuple[News, ...]:
        """Return how every replica stands."""
        return tuple(replica.news for replica in self._replicas.values())

    @property
    def busy(self) -> bool:
        """Return whether a request is being answered by one."""
        return any(self._front.in_flight(one.number) for one in self._tasks)

    def refuse(self) -> None:
        """Have all of them asked nothing more; what runs goes on."""
        for one in self._replicas.values():
            one.refuse()

    @property
    def info(self) -> EngineInfo | None:
        """Return what the first one that is ready said of itself."""
        ready = (one.info for one in self._replicas.values() if one.status.phase == "ready")
        return next(ready, None)

    def begin(self) -> None:
        """Begin to look at those that there are from the start.

        Raises:
            UsageError: one is there twice, or is this server itself.
        """
        for replica in self._plan.replicas:
            self._launch(replica)

    def _launch(self, replica: ReplicaAddress) -> SupervisedReplica:
        """Begin to look at a replica, which is asked once it is ready.

        Raises:
            UsageError: it is there already, or this server itself.
        """
        if (expected := self._plan.expected) is None:
            raise UsageError(
                "a server of several models has no replicas", hint="serve one model, and --replica"
            )
        refuse_itself((replica,), self._plan.own)
        for other in self._replicas.values():
            if places(other.replica) & places(replica):
                raise UsageError(f"{replica.address} is a replica already")
        number = next(self._numbers)
        one = SupervisedReplica(replica, number, self._socket(number), expected, self._hear)
        self._replicas[replica.address] = one
        self._tasks[one] = asyncio.create_task(one.run(), name=f"replica {replica.address}")
        self._front.changed()
        return one

    async def ready(self) -> None:
        """Wait until one of them is ready."""
        while not any(one.status.phase == "ready" for one in self._replicas.values()):  # noqa: ASYNC110 - several, of which any will do
            await asyncio.sleep(0.05)

    async def join(self, typed: str, key: str) -> None:
        """Have one more replica, and wait until it is asked; one that cannot be leaves no trace.

        Args:
            typed: its address.
            key: that it is shown; empty for the one that this run knows of it, if any.

        Raises:
            UsageError: it is there already, is this server itself, or serves something else.
            IntegrityError: its bundle is another one.
            ServeError: it cannot be reached, or is not ready in time.
        """
        replica = replica_address(typed, {"": key} if key else self._plan.keys)
        async with self._changing:
            one = self._launch(replica)
            try:
                await _settled(one)
            except BaseException:
                await self._retire(one, 0.0)
                raise
            await self._front.told()

    async def drain(self, typed: str, drain_s: float, *, alone: bool) -> None:
        """Ask a replica nothing more; what runs there may end within `drain_s`, then it is cut.

        Args:
            typed: its address.
            drain_s: seconds.
            alone: whether nothing else serves the model.

        Raises:
            UsageError: there is no such replica, or it is the last that serves.
        """
        address = replica_address(typed).address
        async with self._changing:
            one = self._replicas.get(address)
            if one is None:
                known = ", ".join(self) or "none"
                raise UsageError(
                    f"no replica {address} is asked here; asked: {known}", hint="llava-pack status"
                )
            if alone and len(self) == 1:
                raise UsageError(
                    f"{address} is the only replica here",
                    hint="llava-pack stop ends the server; llava-pack start --replica adds another",
                )
            await self._retire(one, drain_s)

    async def close(self) -> None:
        """Let go of all of them, whatever runs there."""
        for one in self._tasks:
            one.stop()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _retire(self, one: SupervisedReplica, drain_s: float) -> None:
        del self._replicas[one.replica.address]
        self._front.changed()
        await self._front.told()
        await idle(lambda: not self._front.in_flight(one.number), drain_s)
        one.stop()
        await asyncio.gather(self._tasks.pop(one), return_exceptions=True)

    def _hear(self, address: str, status: Status) -> None:
        self._front.changed()
        self._on_status(address, status)


async def _settled(one: SupervisedReplica) -> None:
    """Wait until a replica is ready, or raise why it is not.

    Raises:
        PackError: it is not.
    """
    await one.looked.wait()
    await idle(lambda: one.status.phase == "ready" or one.failed is not None, _JOIN_S)
    if one.failed is not None:
        raise one.failed
    if one.status.phase != "ready":
        raise ServeError(f"it is not ready: {one.status.phase}", subject=one.replica.address)
