"""A follower's part of an engine: a process that runs while the head wants it to.

It is not started again by itself: a part that is new fits no engine whose other parts are old.
"""

import asyncio
import logging
from collections.abc import Callable

from llava_pack.format.errors import PackError
from llava_pack.serve.nodes.wire import NodeOrder, NodeReport
from llava_pack.serve.subprocesses import EngineCommand, start
from llava_pack.serve.supervision.foreign import begun
from llava_pack.serve.supervision.lifetime import EngineProcessLife

_log = logging.getLogger(__name__)

Commander = Callable[[NodeOrder], EngineCommand]
"""Says how this node's part is started."""


class PartLife(EngineProcessLife):
    """One process of a part; it answers nobody here.

    Args:
        command: how it is started.
    """

    async def run(self) -> None:
        """Start the process and raise what it ended with.

        Raises:
            PackError: always; nothing of the process is left.
        """
        async with begun(self._command) as program:
            process = await start(program, "the engine")
            await self._live_with(process, process.wait(), self._hear)

    def _hear(self, line: str) -> None:
        _log.info("%s: %s", self._command.name, line)


class OrderedEngine:
    """The part of this node, as one connection to the head wants it.

    Args:
        command: how it is started.
        on_report: called at each change of `report`; must not block.
    """

    def __init__(self, command: Commander, on_report: Callable[[NodeReport], None]) -> None:
        self._command = command
        self._on_report = on_report
        self._order: NodeOrder | None = None
        self._changed = asyncio.Event()
        self._life: PartLife | None = None
        self.report = NodeReport()
        """How it stands."""

    def obey(self, order: NodeOrder) -> None:
        """Take what the head wants now."""
        self._order = order
        self._changed.set()

    async def run(self) -> None:
        """Start and end the process as it is wanted; cancelled, leave nothing of it."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._order is not None and self._order.life not in {0, self.report.ended}:
                await self._live(self._order)

    def kill(self) -> None:
        """Kill the process, and wait for nothing."""
        if self._life is not None:
            self._life.kill()

    async def _live(self, order: NodeOrder) -> None:
        """Have the process run until it ends, or another start is wanted."""
        self._tell(NodeReport(life=order.life))
        why = ""
        try:
            self._life = PartLife(self._command(order))
            why = await self._ended(self._life, order.life)
        except PackError as error:  # it cannot be started as the head wants
            why = error.message
        finally:
            self._life = None
            self._tell(NodeReport(ended=order.life if why else 0, why=why))

    async def _ended(self, life: PartLife, number: int) -> str:
        """Return why a process ended by itself, empty where it was not wanted any more."""
        running = asyncio.create_task(life.run())
        try:
            while not running.done() and self._order and self._order.life == number:
                self._changed.clear()
                change = asyncio.create_task(self._changed.wait())
                await asyncio.wait({running, change}, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
            if running.done():
                error = running.exception()
                return error.message if isinstance(error, PackError) else repr(error)
            return ""
        finally:
            await life.stop(force=False)
            await asyncio.gather(running, return_exceptions=True)
            self._changed.set()

    def _tell(self, report: NodeReport) -> None:
        self.report = report
        self._on_report(report)
