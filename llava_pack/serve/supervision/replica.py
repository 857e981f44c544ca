"""One replica under supervision: asked how it stands, again and again; it is never started here.

The gateway makes no socket of a network. So a relay hands its requests on, and the probes of this
process take the same way: what they tell is what the gateway will find.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llava_pack.engine.port import EngineInfo
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import IntegrityError, PackError, ServeError, UsageError
from llava_pack.serve.engines.client import EngineAddress
from llava_pack.serve.feed import News
from llava_pack.serve.port import Status, Vitals
from llava_pack.serve.replicas.address import ReplicaAddress
from llava_pack.serve.replicas.connection import ReplicaConnection
from llava_pack.serve.replicas.dialling import relayed_at
from llava_pack.serve.replicas.report import ReplicaReport, check_same
from llava_pack.serve.supervision.relay import Port, relayed

_log = logging.getLogger(__name__)
LOOK_EVERY_S = 1.0
_NOTHING = Vitals(steps=0, running=0, waiting=0, stalled_s=0.0, bound_s=0.0)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What every replica of a run has to serve."""

    model: str
    """The name for `model` in the API."""
    bundle_id: str | None
    """Of the bundle; None for bare folders, of which nothing tells whether they are alike."""


class SupervisedReplica:
    """A replica that is looked at until `stop`.

    Args:
        replica: where it is.
        number: its own, which no engine of the run ever has.
        socket: in the run's private folder, where the gateway asks it.
        expected: what it has to serve.
        on_status: called at every change, on the event loop; must not block.
    """

    def __init__(
        self,
        replica: ReplicaAddress,
        number: int,
        socket: Path,
        expected: Expected,
        on_status: Callable[[str, Status], None],
    ) -> None:
        self.replica = replica
        self.number = number
        self.failed: PackError | None = None
        """Why it is not used just now."""
        self.looked = asyncio.Event()
        """Set when it was first asked, whatever came of it."""
        self._socket = socket
        self._expected = expected
        self._on_status = on_status
        self._status = Status(phase="starting")
        self._report: ReplicaReport | None = None
        self._losses = 0
        self._refusing = False
        self._stopping = asyncio.Event()

    @property
    def name(self) -> str:
        """What it is called where it stands among models: its address."""
        return self.replica.address

    @property
    def status(self) -> Status:
        """Where it stands."""
        return self._status

    @property
    def info(self) -> EngineInfo | None:
        """What it said of itself; None until it was ready once."""
        return self._report.info if self._report else None

    @property
    def news(self) -> News:
        """All that the gateway is told of it."""
        seen = self._report
        return News(
            engine=self.number,
            name=self._expected.model,
            address=EngineAddress(socket=self._socket, replica=True, key=self.replica.key),
            status=self._status,
            info=self.info,
            vitals=seen.vitals if seen else _NOTHING,
            stats=seen.stats if seen else Stats(),
            restarts=self._losses,
            replica=self.replica.address,
        )

    async def run(self) -> None:
        """Look at it until `stop`, and hand on what the gateway asks meanwhile.

        Raises:
            ServeError: its socket cannot be made.
        """
        there = self.replica.path or Port(self.replica.host, self.replica.port)
        async with (
            relayed(self._socket, there),
            relayed_at(self._socket, self.replica.key) as connection,
        ):
            while not self._stopping.is_set():
                await self._look(connection)
                self.looked.set()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), LOOK_EVERY_S)
        self._tell(Status(phase="stopped"))

    def refuse(self) -> None:
        """Have it asked nothing more; what runs there goes on."""
        self._tell(Status(phase="stopped", detail="shutting down"))
        self._refusing = True

    def stop(self) -> None:
        """Look no more, and hand nothing on: what still runs there is cut."""
        self._stopping.set()

    async def _look(self, connection: ReplicaConnection) -> None:
        try:
            report = await connection.report()
            check_same(self.replica.address, report, self._expected.model, self._expected.bundle_id)
        except (IntegrityError, UsageError) as error:
            self._fail(error, Status(phase="stopped", detail=error.message))
        except ServeError as error:
            self._fail(error, Status(phase="restarting", detail=error.message))
        else:
            self.failed, self._report = None, report
            self._tell(report.status)

    def _fail(self, error: PackError, status: Status) -> None:
        if self._status.phase == "ready":
            self._losses += 1
            _log.warning("%s: %s", self.replica.address, error.message)
        self.failed = error
        self._tell(status)

    def _tell(self, status: Status) -> None:
        if status != self._status and not self._refusing:
            self._status = status
            self._on_status(self.replica.address, status)
