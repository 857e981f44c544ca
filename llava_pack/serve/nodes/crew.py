"""The other machines that hold a model, as the head's supervisor sees and orders them.

Each follower holds one connection. That it ends, or brings no line for a while, means that the node
is gone, also where nobody asks anything; that an engine there ended is told on it. Either way the
model is lost as a whole, and what is left of it ends before anything starts again.
"""

import asyncio
import contextlib
import hmac
import logging
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from llava_pack.format.errors import (
    AccessError,
    IntegrityError,
    PackError,
    ServeError,
    UsageError,
    reason_of,
)
from llava_pack.serve.nodes.wire import (
    BEAT_S,
    MAX_LINE_BYTES,
    SILENT_S,
    Application,
    Greeting,
    JoinVerdict,
    NodeOrder,
    NodeReport,
    SharedSettings,
    new_nonce,
    proof,
    receive,
    refusal,
    send,
)

_log = logging.getLogger(__name__)
_HEAD = "llava-pack"
_STRANGERS = 16
"""Connections that have not proved anything yet; more are closed at once."""


@dataclass(frozen=True, kw_only=True)
class CrewPlan:
    """What a head wants of the others.

    Attributes:
        listening: bound to the head's private address; closed at the end.
        count: nodes, the head among them.
        bundle_id: that all have to have.
        key: that all have to know.
        port: of the head, where the engines meet.
        settings: of the engines.
    """

    listening: socket.socket
    count: int
    bundle_id: str
    key: str
    port: int
    settings: SharedSettings


@dataclass(kw_only=True, eq=False)
class CrewMember:
    """A node that has joined."""

    rank: int
    address: str
    writer: StreamWriter
    report: NodeReport = field(default_factory=NodeReport)

    def __str__(self) -> str:
        return f"node {self.rank} ({self.address})"


class Crew:
    """The followers of one head.

    Args:
        plan: what is wanted of them.
        say: hears who comes and goes, for people.
    """

    def __init__(self, plan: CrewPlan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._followers: dict[int, CrewMember] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._strangers = 0
        self._lives = 0
        self._wanted = 0
        self._lost = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Let followers join while the block runs."""
        server = await asyncio.start_server(
            self._accepted, sock=self._plan.listening, limit=MAX_LINE_BYTES
        )
        beating = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            server.close()
            for task in (beating, *self._connections):
                task.cancel()
            await asyncio.gather(beating, *self._connections, return_exceptions=True)

    @property
    def missing(self) -> str:
        """Return which nodes are waited for: to join, or to end what they ran before."""
        here = {rank for rank, one in self._followers.items() if not one.report.life}
        ranks = [str(rank) for rank in range(1, self._plan.count) if rank not in here]
        return f"waiting for node {', '.join(ranks)}" if ranks else ""

    @property
    def lost(self) -> str:
        """Return which node no longer holds its part, and why; the first one that was seen."""
        return self._lost

    def begin(self) -> None:
        """Have all followers start their engine."""
        self._lives += 1
        self._wanted, self._lost = self._lives, ""
        self._tell()

    def dismiss(self) -> None:
        """Have all followers end it."""
        self._wanted = 0
        self._tell()

    def _tell(self) -> None:
        order = NodeOrder(
            life=self._wanted,
            count=self._plan.count,
            port=self._plan.port,
            settings=self._plan.settings,
        )
        for follower in self._followers.values():
            send(follower.writer, order)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            self._tell()

    def _accepted(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._strangers >= _STRANGERS:
            writer.close()
            return
        task = asyncio.create_task(self._connected(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connected(self, reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.closing(writer):
            self._strangers += 1
            try:
                async with asyncio.timeout(SILENT_S):
                    follower = await self._greet(reader, writer)
            except (OSError, TimeoutError, ServeError) as error:
                _log.info("a connection that is no node's: %s", reason_of(error))
                return
            finally:
                self._strangers -= 1
            if follower is not None:
                await self._follow(follower, reader)

    async def _greet(self, reader: StreamReader, writer: StreamWriter) -> CrewMember | None:
        """Return the follower that proved to be one; None where it is refused, and told so."""
        greeting = Greeting(head=_HEAD, nonce=new_nonce())
        send(writer, greeting)
        application = await receive(reader, Application)
        try:
            self._check(greeting, application)
        except PackError as error:
            self._say(f"! {application.address} may not join as node {application.rank}: {error}")
            send(writer, refusal(error))
            await writer.drain()
            return None
        send(writer, JoinVerdict(proof=proof(self._plan.key, "head", greeting, application)))
        return CrewMember(rank=application.rank, address=application.address, writer=writer)

    def _check(self, greeting: Greeting, application: Application) -> None:
        """Say whether who applies may join; nothing is said to who does not know the key.

        Raises:
            AccessError: it does not know the key.
            IntegrityError: another bundle is installed there.
            UsageError: no such place is free.
        """
        expected = proof(self._plan.key, "follower", greeting, application)
        if not hmac.compare_digest(expected.encode(), application.proof.encode()):
            raise AccessError(
                "its join key is not this head's",
                hint="paste the line that the head prints now",
            )
        if application.bundle_id != self._plan.bundle_id:
            raise other_bundle(self._plan.bundle_id, application.bundle_id)
        if not 0 < application.rank < self._plan.count:
            raise UsageError(
                f"expected a rank from 1 to {self._plan.count - 1}, got {application.rank}",
                subject="--rank",
            )
        holder = self._followers.get(application.rank)
        if holder is not None and holder.address != application.address:
            raise UsageError(f"{holder} has already joined", subject=f"--rank {application.rank}")

    async def _follow(self, follower: CrewMember, reader: StreamReader) -> None:
        """Hear a follower until it is gone."""
        if (before := self._followers.get(follower.rank)) is not None:
            self._leave(before, "it joined again")
        self._followers[follower.rank] = follower
        self._say(f"{follower} has joined")
        try:
            while True:
                async with asyncio.timeout(SILENT_S):
                    follower.report = await receive(reader, NodeReport)
                if self._wanted and follower.report.ended == self._wanted:
                    self._lose(f"{follower}: {follower.report.why}")
        except TimeoutError:
            self._leave(follower, f"no sign of life for {SILENT_S:g} s")
        except (OSError, ServeError) as error:
            self._leave(follower, reason_of(error))

    def _leave(self, follower: CrewMember, why: str) -> None:
        if self._followers.get(follower.rank) is follower:
            del self._followers[follower.rank]
            follower.writer.close()
            self._say(f"! {follower} is gone: {why}")
            self._lose(f"{follower} is gone: {why}")

    def _lose(self, why: str) -> None:
        if self._wanted and not self._lost:
            self._lost = why


def other_bundle(expected: str, found: str) -> IntegrityError:
    """Return the error for a node on which another bundle is installed than on the head."""
    return IntegrityError(
        f"expected bundle {expected} as on the head, got {found}",
        subject="--fingerprint",
        hint="install the head's bundle here, or this one there: all nodes need the same",
    )
