"""What is asked of an engine over a connection, whatever the engine is: one protocol."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, Self

from llava_pack.engine.fence.value import Standing
from llava_pack.engine.measures import Trace
from llava_pack.engine.port import Delta, EngineInfo, Event, Failed, Request
from llava_pack.engine.process.protocol import EngineStatus
from llava_pack.engine.stats import Stats
from llava_pack.format.manifest import Engine


@dataclass(frozen=True, kw_only=True)
class EngineAddress:
    """Where an engine is asked, and in which words."""

    socket: Path
    """A Unix socket in the private folder of the run, also where the engine listens elsewhere."""
    engine: Engine = "transformers"
    """Which one it is; llava-pack's own speaks a protocol of its own, the others OpenAI's."""
    key: str = field(default="", repr=False)
    """What it wants to be told; empty for nothing."""
    replica: bool = False
    """Whether another llava-pack server has it, which is asked as any client asks."""
    info: EngineInfo | None = None
    """What the plan says of an engine that tells little of itself; None for llava-pack's own."""
    tokens: tuple[str, ...] = ()
    """The special tokens of the model as texts, so that a person's text never becomes one; empty
    for llava-pack's own, which knows them."""
    standing: Standing | None = None
    """Which fence stands around an engine that does not tell; None where it tells itself."""


class EngineConnection(Protocol):
    """A connection to an engine, over which many requests are asked.

    Closing a `generate` iterator, or cancelling the task that reads it, cancels its request.
    """

    @property
    def status(self) -> EngineStatus:
        """Return what the engine last said about itself."""

    @property
    def standing(self) -> Standing | None:
        """Return which fence stands around the engine, None where it does not tell."""

    @property
    def connected(self) -> bool:
        """Return whether the engine can still be reached."""

    async def changed(self) -> EngineStatus:
        """Wait for the next status, or for the end of the connection, and return the last one."""

    async def ready(self) -> EngineInfo:
        """Wait until the engine has loaded and return what it serves.

        Raises:
            PackError: loading failed, with the engine's own error.
            ServeError: the engine is gone.
        """

    def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Yield the events of a request; the last one is `Finished` or `Failed`.

        Raises:
            ServeError: the connection to the engine was lost.
        """

    async def stats(self) -> Stats:
        """Return the engine's counters; answered even while a step is running.

        Raises:
            ServeError: the engine is gone.
        """

    async def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt; a picture is -200, once for each of its tokens.

        Raises:
            PackError: the request is not usable, with the engine's own error.
            ServeError: the engine is gone.
        """

    async def trace(self, request: Request) -> Trace:
        """Return what becomes of a question, stage by stage.

        Raises:
            PackError: the request is not usable, with the engine's own error.
            ServeError: the engine is gone.
        """

    async def close(self) -> None:
        """Close the connection; requests that are still running are cancelled."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


async def deltas_of(answering: AsyncGenerator[Event, None]) -> list[Delta]:
    """Return what an answer consists of, once it has ended.

    Raises:
        PackError: it failed.
    """
    deltas: list[Delta] = []
    async with aclosing(answering) as events:
        async for event in events:
            if isinstance(event, Failed):
                raise event.error()
            if isinstance(event, Delta):
                deltas.append(event)
    return deltas


async def connect(address: EngineAddress) -> EngineConnection:
    """Return a connection to the engine that listens there; it may still be loading.

    Raises:
        ServeError: nobody listens there, or it speaks otherwise.
    """
    from llava_pack.runtimes import RUNTIMES

    if address.replica:
        from llava_pack.serve.replicas.dialling import connected

        return await connected(address.socket, address.key)
    profile = RUNTIMES[address.engine].profile
    if profile is None:
        from llava_pack.engine.process.client import EngineClient

        return await EngineClient.connect(address.socket)
    from llava_pack.serve.engines.http_exchange import HttpEndpoint
    from llava_pack.serve.engines.openai import OpenAiConnection
    from llava_pack.serve.engines.openai_facts import EngineFacts

    opener = partial(asyncio.open_unix_connection, address.socket)
    endpoint = HttpEndpoint(opener, address.key)
    await endpoint.meet()
    facts = EngineFacts(
        endpoint,
        profile.dialect,
        metrics=profile.metrics,
        ready_path=profile.ready,
        info=address.info,
        tokens=address.tokens,
    )
    return OpenAiConnection(facts)
