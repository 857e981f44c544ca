"""What a head hears and says over one connection: proofs, places, orders, and the end of each."""

import asyncio
import functools
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, ParamSpec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.serve.nodes.crew import Crew, CrewPlan
from llava_pack.serve.nodes.wire import (
    MAX_LINE_BYTES,
    Application,
    Greeting,
    JoinVerdict,
    NodeOrder,
    NodeReport,
    SharedSettings,
    proof,
    receive,
    send,
)
from tests.support.waiting import until_async

P = ParamSpec("P")


def on_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Have a test run on a loop of its own."""

    @functools.wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        asyncio.run(test(*arguments, **named))

    return run


KEY, BUNDLE = "k" * 43, "ab" * 32
SETTINGS = SharedSettings(precision="fp16", device="cuda", slots=8, context_tokens=4096, gpus=None)
OWN = Application(rank=1, bundle_id=BUNDLE, address="10.0.0.2", nonce="n")


class Line:
    """A follower's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def apply(self, application: Application, key: str = KEY) -> tuple[Greeting, JoinVerdict]:
        greeting = await receive(self.reader, Greeting)
        own = proof(key, "follower", greeting, application)
        send(self.writer, replace(application, proof=own))
        return greeting, await receive(self.reader, JoinVerdict)

    async def order(self, life: int) -> NodeOrder:
        """Return the next order for a start; the same one comes again and again."""
        while (order := await receive(self.reader, NodeOrder)).life != life:
            pass
        return order


class Head:
    """A head that listens on loopback."""

    def __init__(self, count: int) -> None:
        self.said: list[str] = []
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        plan = CrewPlan(
            listening=listening, count=count, bundle_id=BUNDLE, key=KEY, port=1, settings=SETTINGS
        )
        self.crew = Crew(plan, self.said.append)

    async def line(self) -> Line:
        return Line(*await asyncio.open_connection("127.0.0.1", self.port, limit=MAX_LINE_BYTES))


@asynccontextmanager
async def head(count: int = 2) -> AsyncIterator[Head]:
    one = Head(count)
    async with one.crew.serve():
        yield one


@on_a_loop
async def test_a_follower_joins_and_is_ordered() -> None:
    async with head() as one:
        assert one.crew.missing == "waiting for node 1"
        line = await one.line()
        greeting, admission = await line.apply(OWN)
        assert admission.proof == proof(KEY, "head", greeting, OWN)
        await until_async(lambda: not one.crew.missing)
        one.crew.begin()
        assert await line.order(1) == NodeOrder(life=1, count=2, port=1, settings=SETTINGS)
        send(line.writer, NodeReport(life=1))
        await until_async(lambda: one.crew.missing)
        one.crew.dismiss()
        await line.order(0)
        send(line.writer, NodeReport())
        await until_async(lambda: not one.crew.missing)
        assert one.crew.lost == ""
        line.writer.close()


@on_a_loop
async def test_what_ends_of_the_start_that_is_wanted_is_a_loss_and_nothing_else_is() -> None:
    async with head() as one:
        line = await one.line()
        await line.apply(OWN)
        await until_async(lambda: not one.crew.missing)
        one.crew.begin()
        one.crew.dismiss()
        one.crew.begin()
        send(line.writer, NodeReport(ended=1, why="the one before"))
        send(line.writer, NodeReport(ended=2, why="killed"))
        await until_async(lambda: one.crew.lost)
        assert one.crew.lost == "node 1 (10.0.0.2): killed"
        line.writer.close()
        await until_async(lambda: one.crew.missing)
        assert one.crew.lost == "node 1 (10.0.0.2): killed"
        one.crew.begin()
        assert one.crew.lost == ""


@on_a_loop
async def test_a_connection_that_ends_is_a_loss_only_while_something_runs() -> None:
    async with head() as one:
        for begun in (False, True):
            line = await one.line()
            await line.apply(OWN)
            await until_async(lambda: not one.crew.missing)
            if begun:
                one.crew.begin()
            line.writer.close()
            await until_async(lambda: one.crew.missing)
            assert bool(one.crew.lost) is begun
        assert one.crew.lost == "node 1 (10.0.0.2) is gone: the connection was closed"


@pytest.mark.parametrize(
    ("application", "key", "kind"),
    [
        (OWN, "other", "access"),
        (replace(OWN, bundle_id="cd" * 32), KEY, "integrity"),
        (replace(OWN, bundle_id="cd" * 32), "other", "access"),
        (replace(OWN, rank=0), KEY, "usage"),
        (replace(OWN, rank=2), KEY, "usage"),
    ],
)
@on_a_loop
async def test_who_may_not_join_is_told_why(application: Application, key: str, kind: str) -> None:
    async with head() as one:
        line = await one.line()
        _, admission = await line.apply(application, key)
        assert (admission.kind, admission.proof) == (kind, "")
        assert one.crew.missing == "waiting for node 1"
        line.writer.close()


@on_a_loop
async def test_a_place_is_one_machines_and_that_one_may_come_back() -> None:
    async with head(3) as one:
        first, second, again = [await one.line() for _ in range(3)]
        await first.apply(OWN)
        await until_async(lambda: one.crew.missing == "waiting for node 2")
        _, refused = await second.apply(replace(OWN, address="10.0.0.3"))
        assert refused.message == "node 1 (10.0.0.2) has already joined"
        _, taken = await again.apply(OWN)
        assert taken.proof
        assert await first.reader.read() != b"never"
        assert one.crew.missing == "waiting for node 2"
        for line in (first, second, again):
            line.writer.close()


@on_a_loop
async def test_a_proof_is_of_one_connection_and_of_one_side() -> None:
    async with head() as one:
        lines = [await one.line() for _ in range(2)]
        greetings = [await receive(line.reader, Greeting) for line in lines]
        assert greetings[0] != greetings[1]
        old = proof(KEY, "follower", greetings[0], OWN)
        heads = proof(KEY, "head", greetings[1], OWN)
        assert len({old, heads, proof(KEY, "follower", greetings[1], OWN)}) == 3
        send(lines[1].writer, replace(OWN, proof=old))
        assert (await receive(lines[1].reader, JoinVerdict)).kind == "access"
        send(lines[0].writer, replace(OWN, proof=proof(KEY, "head", greetings[0], OWN)))
        assert (await receive(lines[0].reader, JoinVerdict)).kind == "access"
        for line in lines:
            line.writer.close()


@given(st.binary(max_size=200) | st.just(b"x" * (MAX_LINE_BYTES + 10)))
@on_a_loop
async def test_whatever_else_a_stranger_sends_changes_nothing(data: bytes) -> None:
    async with head() as one:
        line = await one.line()
        line.writer.write(data + b"\n")
        line.writer.write_eof()
        await line.reader.read()
        line.writer.close()
        assert one.crew.missing == "waiting for node 1"
        assert one.said == []


@on_a_loop
async def test_strangers_that_say_nothing_are_few() -> None:
    async with head() as one:
        silent = [await one.line() for _ in range(40)]
        answers = [await line.reader.readline() for line in silent]
        assert len([answer for answer in answers if answer]) == 16
        for line in silent:
            line.writer.close()
