# ruff: noqa: ASYNC110, ASYNC220, ASYNC221 - real processes, and a counter that is asked for
"""The engine's process and its socket, driven by the real client from another process."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE, PICTURE_MODES
from llava_pack.engine.port import Delta, Failed, Finished, Message, Picture, Request
from llava_pack.engine.process import protocol
from llava_pack.engine.process.client import EngineClient
from llava_pack.engine.process.server import EngineServer
from llava_pack.engine.sampling import FIRST_SETTINGS, Grammar, GrammarError, Sampling
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import PackError, ServeError, UsageError
from tests.support.connection import connected
from tests.support.engine import EchoEngine

ECHO = Path(__file__).parent.parent / "support" / "engine.py"
HELLO = Message("user", ("one two three four five six seven",))
LONG = Message("user", ("word " * 4000,))
WIDE = ("--slots", "1", "--context", "10000", "--step-s", "0.02")
"""The long answer takes 80 s: nobody waits for its end."""


def request(*messages: Message, **sampling: object) -> Request:
    return Request(
        request_id="mine",
        messages=messages or (HELLO,),
        sampling=Sampling(**sampling),  # type: ignore[arg-type]
    )


@asynccontextmanager
async def engine(folder: Path, *options: str | Path):
    """Run an echo engine and yield its process and a client that is connected to it."""
    path = folder / "run" / "engine.sock"
    process = subprocess.Popen([sys.executable, ECHO, "--socket", path, *options])
    try:
        client = await connected(path, process)
        try:
            yield process, client
        finally:
            await client.close()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


async def answer(client: EngineClient, asked: Request) -> list[Delta | Finished | Failed]:
    return [event async for event in client.generate(asked)]


async def idle(client: EngineClient) -> Stats:
    while (stats := await client.stats()).running or stats.waiting:
        await asyncio.sleep(0)
    return stats


async def ended(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.to_thread(process.wait, 200)


def test_answers_carry_the_clients_own_id(tmp_path):
    async def run():
        async with engine(tmp_path) as (_, client):
            info = await client.ready()
            picture = Picture(3, 1, bytes((255, 0, 0)) * 3)
            events = await answer(client, request(Message("user", (picture, "hello"))))
            assert info.model == "echo"
            assert {event.request_id for event in events} == {"mine"}
            assert isinstance(events[-1], Finished)
            text = "".join(event.text for event in events if isinstance(event, Delta))
            assert text == "You said: hello Picture 3x1 of 255,0,0."
            stats = await client.stats()
            assert stats.generated_tokens == events[-1].usage.completion_tokens
            assert (stats.steps > 0, stats.running, stats.last_step_age_s) == (True, 0, 0.0)

    asyncio.run(run())


def test_many_at_once_share_one_socket(tmp_path):
    async def run():
        async with engine(tmp_path, "--slots", "3") as (_, client):
            await client.ready()
            asked = [request(Message("user", (f"number {n}",))) for n in range(12)]
            for n, events in enumerate(await asyncio.gather(*(answer(client, r) for r in asked))):
                text = "".join(event.text for event in events if isinstance(event, Delta))
                assert text == f"You said: number {n}"

    asyncio.run(run())


def test_closing_the_iterator_frees_the_slot(tmp_path):
    async def run():
        async with engine(tmp_path, *WIDE) as (_, client):
            await client.ready()
            events = client.generate(request(LONG, max_tokens=4000))
            await anext(events)
            assert (await client.stats()).running == 1
            await events.aclose()
            assert (await idle(client)).generated_tokens < 2000
            assert isinstance((await answer(client, request()))[-1], Finished)

    asyncio.run(run())


def test_a_client_that_goes_takes_its_requests_along(tmp_path):
    async def run():
        async with engine(tmp_path, *WIDE) as (_, client):
            await client.ready()
            other = await EngineClient.connect(tmp_path / "run" / "engine.sock")
            events = other.generate(request(LONG, max_tokens=4000))
            await anext(events)
            await other.close()
            with pytest.raises(ServeError):
                _ = [event async for event in events]
            assert (await idle(client)).generated_tokens < 2000

    asyncio.run(run())


def test_a_bad_request_fails_alone_and_in_its_own_class(tmp_path):
    async def run():
        async with engine(tmp_path) as (_, client):
            await client.ready()
            bad = Request(request_id="mine", messages=(HELLO,), conv_mode="none_such")
            bad_events, good_events = await asyncio.gather(
                answer(client, bad), answer(client, request())
            )
            assert isinstance(bad_events[-1], Failed)
            assert isinstance(bad_events[-1].error(), UsageError)
            assert isinstance(good_events[-1], Finished)

    asyncio.run(run())


def test_loading_can_be_watched(tmp_path):
    async def run():
        loaded = tmp_path / "loaded"
        async with engine(tmp_path, "--load-until", loaded) as (_, client):
            with pytest.raises(ServeError, match="still loading"):
                _ = client.info
            while client.status.phase != "weights":
                await client.changed()
            assert (client.status.state, client.status.total_bytes) == ("loading", 1000)
            loaded.touch()
            assert (await client.ready()).slots == 2

    asyncio.run(run())


def test_too_many_pictures_fail_that_request_alone(tmp_path):
    async def run():
        async with engine(tmp_path) as (_, client):
            await client.ready()
            dots = (Picture(1, 1, b"abc"),) * (protocol.MAX_ATTACHMENTS + 1)
            refused, good = await asyncio.gather(
                answer(client, request(Message("user", (*dots, "x")))), answer(client, request())
            )
            assert isinstance(refused[-1], Failed)
            assert isinstance(refused[-1].error(), UsageError)
            assert isinstance(good[-1], Finished)

    asyncio.run(run())


def test_another_protocol_version_is_refused(tmp_path):
    async def run():
        async with engine(tmp_path):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "run" / "engine.sock")
            writer.writelines(protocol.encode({"op": "hello", "protocol": 99}))
            hello = await protocol.read_message(reader)
            assert hello is not None
            assert hello[0]["protocol"] == protocol.PROTOCOL
            assert await protocol.read_message(reader) is None
            writer.close()

    asyncio.run(run())


def test_sigterm_lets_running_requests_end_and_refuses_new_ones(tmp_path):
    async def run():
        options = ("--step-s", "0.05", "--drain-s", "600")
        async with engine(tmp_path, *options) as (process, client):
            await client.ready()
            running = client.generate(request(Message("user", ("word " * 60,))))
            await anext(running)
            process.send_signal(signal.SIGTERM)
            while client.status.state != "draining":
                await client.changed()
            refused = await answer(client, request())
            assert isinstance(refused[-1], Failed)
            assert isinstance(refused[-1].error(), ServeError)
            assert isinstance([event async for event in running][-1], Finished)
            assert await ended(process) == 0

    asyncio.run(run())


def test_a_drain_that_takes_too_long_is_cut(tmp_path):
    async def run():
        async with engine(tmp_path, *WIDE, "--drain-s", "0.1") as (process, client):
            await client.ready()
            running = client.generate(request(LONG, max_tokens=4000))
            await anext(running)
            process.send_signal(signal.SIGTERM)
            events = [event async for event in running]
            assert isinstance(events[-1], Finished)
            assert events[-1].reason == "cancelled"
            assert await ended(process) == 0

    asyncio.run(run())


def test_the_socket_is_private_and_goes_away(tmp_path):
    async def run():
        path = tmp_path / "run" / "engine.sock"
        async with engine(tmp_path) as (process, client):
            await client.ready()
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            process.send_signal(signal.SIGTERM)
            assert await ended(process) == 0
        assert not path.exists()

    asyncio.run(run())


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path):
    async def run():
        path = tmp_path / "run" / "engine.sock"
        async with engine(tmp_path) as (process, client):
            await client.ready()
            second = subprocess.run(
                [sys.executable, ECHO, "--socket", path], check=False, capture_output=True
            )
            assert b"already running on this socket" in second.stderr
            process.kill()
            await ended(process)
        assert path.exists()
        async with engine(tmp_path) as (_, client):
            assert (await client.ready()).model == "echo"

    asyncio.run(run())


def test_the_engine_ends_with_its_parent(tmp_path):
    async def run():
        path = tmp_path / "run" / "engine.sock"
        start = "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"
        parent = subprocess.Popen(
            [sys.executable, "-c", start, sys.executable, ECHO, "--socket", path]
        )
        client = await connected(path, parent)
        await client.ready()
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        while client.connected:
            await client.changed()
        await client.close()
        with pytest.raises(ServeError):
            await EngineClient.connect(path)

    asyncio.run(run())


def test_nobody_listens(tmp_path):
    with pytest.raises(ServeError, match="cannot reach the engine"):
        asyncio.run(EngineClient.connect(tmp_path / "none.sock"))


def test_requests_cross_the_wire_unchanged():
    picture = Picture(2, 1, b"abcdef")
    asked = Request(
        request_id="r",
        messages=(Message("system", ("be brief",)), Message("user", (picture, "a", "b"))),
        sampling=Sampling(
            temperature=0.5, top_p=0.9, seed=3, max_tokens=4, stop=("x",), logprobs=2
        ),
        conv_mode="plain",
        salt="somebody",
    )
    fields, pixels = protocol.request_to_wire(asked)
    assert protocol.request_from_wire(fields, pixels) == asked


def test_tokens_and_odds_cross_the_wire(tmp_path):
    async def run():
        async with engine(tmp_path) as (_, client):
            await client.ready()
            picture = Picture(3, 1, bytes((255, 0, 0)) * 3)
            asked = request(Message("user", (picture, "hello")), logprobs=2)
            ids, events = await asyncio.gather(client.tokenize(asked), answer(client, asked))
            assert ids.count(-200) == 4
            first, *_, end = events
            assert end.usage.prompt_tokens == len(ids)
            assert first.odds[0].chosen.data == b"You "
            assert len(first.odds[0].likeliest) == 2
            trace = await client.trace(asked)
            assert (len(trace.prompt), trace.pixels) == (64, picture.digest)
            assert trace == await client.trace(asked)
            with pytest.raises(UsageError):
                await client.trace(Request(request_id="t", messages=(HELLO,), conv_mode="x"))
            with pytest.raises(UsageError):
                await client.tokenize(Request(request_id="t", messages=(HELLO,), conv_mode="x"))

            stats = await client.stats()
            assert stats.work.prefill_tokens == len(ids)
            assert stats.first_token_s.count == 1
            assert stats.token_gap_s.count == end.usage.completion_tokens - 1
            total = len(ids) + end.usage.completion_tokens
            assert stats.step_tokens.total == total

    asyncio.run(run())


def test_a_request_without_its_pixels_is_refused():
    fields, _ = protocol.request_to_wire(request(Message("user", (Picture(1, 1, b"abc"),))))
    with pytest.raises(ServeError):
        protocol.request_from_wire(fields, [])


def test_a_status_crosses_the_wire_unchanged():
    status = protocol.EngineStatus(
        state="failed", error=Failed("", "checkpoint", "broken", "fetch it")
    )
    assert protocol.status_from_wire(protocol.status_to_wire(status)) == status


@pytest.mark.parametrize("mode", PICTURE_MODES)
def test_what_an_engine_says_of_itself_crosses_the_wire_unchanged(mode):
    """Servers of earlier versions know no mode of pictures, and hear of none by default."""
    info = replace(EchoEngine().info, picture_mode=mode)
    status = protocol.EngineStatus(state="ready", info=info)
    wire = protocol.status_to_wire(status)
    assert protocol.status_from_wire(wire) == status
    assert ("picture_mode" in wire["info"]) == (mode != DEFAULT_PICTURE_MODE)


def test_a_frame_that_claims_too_much_is_refused():
    async def run():
        reader = asyncio.StreamReader()
        reader.feed_data((1 << 30).to_bytes(4, "big"))
        with pytest.raises(ServeError, match="at most"):
            await protocol.read_message(reader)

    asyncio.run(run())


class _Preparing(EchoEngine):
    """An engine that takes as long as it is told to compile a grammar."""

    def __init__(self) -> None:
        super().__init__(slots=1, context_tokens=10_000, step_s=0.001)
        self.began, self.go_on = threading.Event(), threading.Event()

    def prepare(self, request: Request) -> None:
        self.began.set()
        assert self.go_on.wait(60)
        if request.sampling.grammar == Grammar("regex", "("):
            raise GrammarError("unclosed group")
        if request.sampling.grammar == Grammar("regex", "bug"):
            raise RuntimeError("can't start new thread")


@asynccontextmanager
async def prepared(folder: Path):
    """Serve an engine that prepares in this process, and yield it with a client."""
    one = _Preparing()
    server = EngineServer(lambda _: one)
    server.thread.start()
    listening = await asyncio.start_unix_server(server.connected, folder / "engine.sock")
    async with listening, await EngineClient.connect(folder / "engine.sock") as client:
        await client.ready()
        yield one, client
    one.go_on.set()
    server.thread.stop()
    assert server.thread.join(60)


def test_others_are_answered_while_a_grammar_is_compiled(tmp_path):
    async def run():
        async with prepared(tmp_path) as (one, client):
            held = asyncio.create_task(answer(client, request(grammar=Grammar("regex", "a"))))
            refused = asyncio.create_task(answer(client, request(grammar=Grammar("regex", "("))))
            assert await asyncio.to_thread(one.began.wait, 60)
            assert isinstance((await answer(client, request()))[-1], Finished)
            assert not held.done()
            one.go_on.set()
            assert isinstance((await held)[-1], Finished)
            (failed,) = await refused
            assert isinstance(failed, Failed)
            assert isinstance(failed.error(), GrammarError)
            assert "unclosed" in failed.message

    asyncio.run(run())


def test_who_leaves_while_a_grammar_is_compiled_takes_no_slot(tmp_path):
    async def run():
        async with prepared(tmp_path) as (one, client):
            asked = request(LONG, max_tokens=9000, grammar=Grammar("regex", "a"))
            left = asyncio.create_task(answer(client, asked))
            assert await asyncio.to_thread(one.began.wait, 60)
            left.cancel()
            await asyncio.gather(left, return_exceptions=True)
            assert isinstance((await answer(client, request()))[-1], Finished)
            one.go_on.set()
            assert isinstance((await answer(client, request()))[-1], Finished)
            assert (await idle(client)).generated_tokens < 2000

    asyncio.run(run())


def test_a_bug_while_preparing_fails_that_request_alone(tmp_path, caplog):
    async def run():
        async with prepared(tmp_path) as (one, client):
            one.go_on.set()
            (failed,) = await answer(client, request(grammar=Grammar("regex", "bug")))
            assert isinstance(failed, Failed)
            assert type(failed.error()) is PackError
            assert isinstance((await answer(client, request()))[-1], Finished)

    asyncio.run(run())
    assert "an operation failed" in caplog.text


def test_who_leaves_before_a_grammar_is_looked_at_takes_no_slot(tmp_path):
    """The request and its end arrive in one piece."""

    async def run():
        async with prepared(tmp_path) as (one, client):
            one.go_on.set()
            asked = replace(request(LONG, max_tokens=9000, grammar=Grammar("regex", "a")),
                request_id="7")  # fmt: skip
            fields, pixels = protocol.request_to_wire(asked)
            frames = protocol.encode({"op": "generate", "request": fields}, pixels)
            frames += protocol.encode({"op": "cancel", "request_id": "7"})
            client._writer.write(b"".join(frames))
            await client._writer.drain()
            while not (await client.stats()).steps:
                await asyncio.sleep(0)
            assert (await idle(client)).generated_tokens < 2000

    asyncio.run(run())


def test_an_engine_of_an_earlier_release_is_not_asked_what_it_would_not_do(tmp_path, monkeypatch):
    monkeypatch.setattr("llava_pack.engine.process.server.SETTINGS", sorted(FIRST_SETTINGS))

    async def run():
        async with prepared(tmp_path) as (_, client):
            assert isinstance((await answer(client, request(seed=3, top_p=0.5)))[-1], Finished)
            with pytest.raises(UsageError, match="earlier release, and has no top_k"):
                await answer(client, request(top_k=3))
            assert isinstance((await answer(client, request()))[-1], Finished)

    asyncio.run(run())
