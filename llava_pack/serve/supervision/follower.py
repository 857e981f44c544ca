"""`serve --join` as one run: a node's part of an engine, as the head of several nodes orders it.

It answers nobody: no gateway, no page, no token. It joins the head again whenever the connection is
lost, for as long as it runs, and its part of the engine ends with the connection.
"""

import asyncio
import contextlib
import hmac
import logging
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llava_pack.engine.port import error_of_kind
from llava_pack.format.errors import ServeError, reason_of
from llava_pack.format.progress import Progress
from llava_pack.profiles.profile import Node
from llava_pack.serve.logfile import kept
from llava_pack.serve.nodes.standing import RUNNING, WAITING
from llava_pack.serve.nodes.wire import (
    BEAT_S,
    MAX_LINE_BYTES,
    SILENT_S,
    Application,
    Greeting,
    JoinVerdict,
    NodeOrder,
    NodeReport,
    new_nonce,
    proof,
    receive,
    send,
)
from llava_pack.serve.run_state import Publication, RunState, publish
from llava_pack.serve.subprocesses import EngineCommand
from llava_pack.serve.supervision.ending import Ending
from llava_pack.serve.supervision.ordered_engine import OrderedEngine
from llava_pack.serve.supervision.run_folder import Scratch
from llava_pack.serve.supervision.systemd import Notifier

_log = logging.getLogger(__name__)
_AGAIN_S = 2.0
"""How long a node rests before it tries to reach the head again."""


@dataclass(frozen=True, kw_only=True)
class FollowerPlan:
    """Everything that one follower needs to know.

    Attributes:
        head: private address of the head.
        port: where the head is joined.
        rank: of this node, from 1 on.
        bundle_id: of what is installed here.
        key: the head's join key.
        own: address of this node that it binds to; empty for the one that leads to the head.
        interface: says which network interface has an address, or why it may not be used.
        command: how this node's part is started, given its place, the order and a folder.
        state: what `status` is told.
        state_directory: where it is told.
        log: where the log is kept; None keeps none.
        notifier: who tells systemd.
    """

    head: str
    port: int
    rank: int
    bundle_id: str
    key: str
    own: str
    interface: Callable[[str], str]
    command: Callable[[Node, NodeOrder, Path], EngineCommand]
    state: RunState
    state_directory: Path
    log: Path | None = None
    notifier: Notifier = field(default_factory=Notifier)


def follow(plan: FollowerPlan, progress: Progress) -> int:
    """Be a node of a head until told to end, and return the exit code.

    Args:
        plan: of which head, and how.
        progress: hears what becomes of it.

    Raises:
        PackError: the head does not take this node, with the head's own error.
    """
    with kept(plan.log), Scratch() as scratch:
        return asyncio.run(_Follower(plan, scratch, progress).run())


class _Follower:
    def __init__(self, plan: FollowerPlan, scratch: Scratch, progress: Progress) -> None:
        self._plan = plan
        self._scratch = scratch
        self._progress = progress
        self._head = f"{plan.head}:{plan.port}"
        self._publication: Publication | None = None
        self._engine: OrderedEngine | None = None
        self._ending = Ending(progress)
        self._said = ""

    async def run(self) -> int:
        """Join again and again, and return the exit code: a signal's only where it was forced."""
        self._ending.listen()
        self._publication = publish(self._plan.state_directory, self._state(WAITING))
        joining = asyncio.create_task(self._join_again())
        told = asyncio.create_task(self._ending.told.wait())
        others = [asyncio.create_task(self._feed_watchdog()), asyncio.create_task(self._enforce())]
        self._plan.notifier.ready(WAITING)
        try:
            await asyncio.wait({joining, told}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._publication.withdraw()
            self._publication = None
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
            for task in (told, *others):
                task.cancel()
            await asyncio.gather(told, *others, return_exceptions=True)
        if not joining.cancelled():
            joining.result()
        return self._ending.exit_code

    async def _join_again(self) -> None:
        while True:
            try:
                await self._join()
            except (OSError, TimeoutError) as error:
                why = reason_of(error) if str(error) else f"no answer for {SILENT_S:g} s"
                self._tell(WAITING, f"the head, {self._head}, cannot be reached: {why}")
            await asyncio.sleep(_AGAIN_S)

    async def _join(self) -> None:
        """Join the head and do what it wants until the connection is lost.

        Raises:
            OSError: it was lost, or never there.
            PackError: the head does not take this node.
        """
        local = (self._plan.own, 0) if self._plan.own else None
        async with asyncio.timeout(SILENT_S):
            reader, writer = await asyncio.open_connection(
                self._plan.head, self._plan.port, limit=MAX_LINE_BYTES, local_addr=local
            )
        with contextlib.closing(writer):
            own = str(writer.get_extra_info("sockname")[0])
            interface = self._plan.interface(own)
            async with asyncio.timeout(SILENT_S):
                await self._prove(reader, writer, own)
            self._tell(WAITING, f"joined the head, {self._head}, as node {self._plan.rank}")
            await self._obey(reader, writer, (own, interface))

    async def _prove(self, reader: StreamReader, writer: StreamWriter, own: str) -> None:
        """Prove to know the key, and have the head prove it.

        Raises:
            OSError: the connection was lost.
            PackError: the head does not take this node.
            ServeError: it is no head, or does not know the key.
        """
        greeting = await receive(reader, Greeting)
        application = Application(
            rank=self._plan.rank, bundle_id=self._plan.bundle_id, address=own, nonce=new_nonce()
        )
        own_proof = proof(self._plan.key, "follower", greeting, application)
        send(writer, replace(application, proof=own_proof))
        admission = await receive(reader, JoinVerdict)
        if admission.kind:
            raise error_of_kind(
                admission.kind, admission.message, admission.hint, subject=self._head
            )
        expected = proof(self._plan.key, "head", greeting, application)
        if not hmac.compare_digest(expected, admission.proof):
            raise ServeError("who listens there does not know the join key", subject=self._head)

    async def _obey(
        self, reader: StreamReader, writer: StreamWriter, place: tuple[str, str]
    ) -> None:
        """Do what the head wants until the connection is lost."""

        def command(order: NodeOrder) -> EngineCommand:
            return self._plan.command(self._node(order, place), order, self._scratch.socket(0))

        def report(told: NodeReport) -> None:
            send(writer, told)
            if told.life:
                self._tell(RUNNING, "")
            else:
                self._tell(WAITING, f"the engine ended: {told.why}" if told.why else "")

        self._engine = engine = OrderedEngine(command, report)
        tasks = [
            asyncio.create_task(engine.run()),
            asyncio.create_task(self._beat(engine, writer)),
            asyncio.create_task(_hear(engine, reader)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _beat(self, engine: OrderedEngine, writer: StreamWriter) -> None:
        while True:
            send(writer, engine.report)
            await asyncio.sleep(BEAT_S)

    def _node(self, order: NodeOrder, place: tuple[str, str]) -> Node:
        return Node(
            rank=self._plan.rank,
            count=order.count,
            head=self._plan.head,
            port=order.port,
            own=place[0],
            interface=place[1],
        )

    async def _enforce(self) -> None:
        """Kill the engine once it is forced, whatever is waited for elsewhere."""
        await self._ending.forced.wait()
        if self._engine is not None:
            self._engine.kill()

    async def _feed_watchdog(self) -> None:
        while (every_s := self._plan.notifier.every_s) is not None:
            self._plan.notifier.alive()
            await asyncio.sleep(every_s)

    def _tell(self, phase: str, detail: str) -> None:
        said = f"{phase}; {detail}" if detail else phase
        if said != self._said:
            self._said = said
            _log.info("%s", said)
            self._progress.note(detail or phase)
            self._plan.notifier.status(said)
            if self._publication is not None:
                self._publication.update(self._state(phase, detail))

    def _state(self, phase: str, detail: str = "") -> RunState:
        told: dict[str, Any] = {
            "head": self._head,
            "rank": self._plan.rank,
            "phase": phase,
            "detail": detail,
        }
        return replace(self._plan.state, follower=told)


async def _hear(engine: OrderedEngine, reader: StreamReader) -> None:
    """Hand on what the head wants.

    Raises:
        OSError: the connection was lost.
        TimeoutError: the head gave no sign of life for a while.
    """
    while True:
        async with asyncio.timeout(SILENT_S):
            engine.obey(await receive(reader, NodeOrder))
