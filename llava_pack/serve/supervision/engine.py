"""One engine under supervision: kept running, and how it stands.

A failure before the engine was ever ready is the start's failure. After that it is started again,
later each time, and the cause is kept where people see it. Nobody's request passes here: the
gateway asks the engine itself.
"""

import asyncio
import logging
from collections.abc import Callable

from llava_pack.engine.port import EngineInfo
from llava_pack.serve.care import Care
from llava_pack.serve.feed import News
from llava_pack.serve.liveness import Pulse
from llava_pack.serve.port import Status, Vitals
from llava_pack.serve.subprocesses import EngineCommand
from llava_pack.serve.supervision.engine_process import EngineLife, Observer, Proof
from llava_pack.serve.supervision.lifetime import Supervised

_log = logging.getLogger(__name__)


class SupervisedEngine(Supervised[EngineLife]):
    """A model whose engine process is kept running.

    Args:
        command: how it is started.
        on_status: called at every change, on the event loop; must not block.
        number: its own, which no other engine of the run ever has.
        care: how it is looked after.
        proof: what it must answer before it counts as ready.
    """

    def __init__(
        self,
        command: EngineCommand,
        on_status: Callable[[str, Status], None] | None = None,
        *,
        number: int = 0,
        care: Care | None = None,
        proof: Proof | None = None,
    ) -> None:
        self._care = care or Care()
        self.ready = asyncio.Event()
        """Set when it first was ready."""
        super().__init__(self.ready, self._care.rests_s)
        self._command = command
        self._on_status = on_status or (lambda _name, _status: None)
        self._proof = proof
        self._status = Status(phase="starting")
        self._info: EngineInfo | None = None
        self._pulse = Pulse(self._care.stall_s)
        self.number = number
        """Its own, which no other engine of the run ever has."""

    @property
    def name(self) -> str:
        """The name for `model` in the API."""
        return self._command.name

    @property
    def status(self) -> Status:
        """Where it stands."""
        return self._status

    @property
    def info(self) -> EngineInfo | None:
        """What it said of itself; None until it was ready once."""
        return self._info

    @property
    def vitals(self) -> Vitals:
        """The latest signs of progress; an engine that does not even answer has stalled."""
        return self._pulse.vitals

    @property
    def news(self) -> News:
        """All that the gateway is told of it."""
        return News(
            engine=self.number,
            name=self.name,
            address=self._command.address,
            status=self._status,
            info=self._info,
            vitals=self._pulse.vitals,
            stats=self._pulse.stats,
            restarts=self._restarts.count,
        )

    async def run(self) -> None:
        """Keep the engine running until `stop`.

        Raises:
            PackError: it could not be started the first time.
        """
        await super().run()
        self._tell(Status(phase="stopped"))

    def refuse(self) -> None:
        """Take no further requests; those that run go on."""
        self._stopping.set()
        self._tell(Status(phase="stopped", detail="shutting down"))

    def _begin(self) -> EngineLife:
        observer = Observer(status=self._tell, ready=self._on_ready)
        return EngineLife(self._command, self._pulse, self._care, self._proof, observer)

    def _on_ready(self, info: EngineInfo) -> None:
        self._info = info
        self._tell(Status(phase="ready"))
        self.ready.set()

    def _tell_rest(self, cause: str, rest_s: float) -> None:
        _log.warning("%s: %s; restarting in %g s", self.name, cause, rest_s)
        self._tell(Status(phase="restarting", detail=f"{cause}; next attempt in {rest_s:g} s"))

    def _tell(self, status: Status) -> None:
        if self._stopping.is_set() and status.phase != "stopped":
            return
        if status != self._status:
            self._status = status
            self._on_status(self.name, status)
