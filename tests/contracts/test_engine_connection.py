# ruff: noqa: ASYNC110, ASYNC220 - real processes, and a counter that is asked for
"""The contract of `EngineConnection`, on llava-pack's own engine and on others behind their API."""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from llava_pack.engine.port import (
    ContextLengthError,
    Delta,
    EngineInfo,
    Failed,
    Finished,
    Message,
    Picture,
    Request,
)
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import ServeError, UsageError
from llava_pack.profiles import dialects
from llava_pack.serve.engines.client import EngineAddress, EngineConnection, connect
from llava_pack.serve.engines.http_exchange import HttpEndpoint
from llava_pack.serve.engines.openai import OpenAiConnection
from llava_pack.serve.engines.openai_facts import EngineFacts
from tests.support.openai_engine import serving

SUPPORT = Path(__file__).parent.parent / "support"
INFO = EngineInfo(
    model="echo", precision="fp32", device="cpu", context_tokens=0, slots=2, conv_mode="llava_v1",
    image_tokens=4, made_on="stub",
)  # fmt: skip
TOKENS = ("<s>", "</s>", "<image>")
HELLO = Message("user", ("one two three four five six seven",))
LONG = Message("user", ("word " * 4000,))
RED = Picture(3, 1, bytes((255, 0, 0)) * 3)
WIDE = ("--slots", "1", "--context", "10000", "--step-s", "0.02")


def request(*messages: Message, conv_mode: str | None = None, **sampling: object) -> Request:
    return Request(
        request_id="mine",
        messages=messages or (HELLO,),
        sampling=Sampling(**sampling),  # type: ignore[arg-type]
        conv_mode=conv_mode,
    )


async def own(socket: Path) -> EngineConnection:
    return await connect(EngineAddress(socket=socket))


async def vllm(socket: Path) -> EngineConnection:
    return await connect(EngineAddress(socket=socket, engine="vllm", info=INFO, tokens=TOKENS))


async def sglang(socket: Path) -> EngineConnection:
    endpoint = HttpEndpoint(partial(asyncio.open_unix_connection, socket), "key")
    await endpoint.meet()
    facts = EngineFacts(
        endpoint,
        dialects.SGLANG,
        metrics=dialects.SGLANG_METRICS,
        ready_path="/health",
        info=INFO,
        tokens=TOKENS,
    )
    return OpenAiConnection(facts)


@dataclass
class Kind:
    """A kind of engine: its program, and how it is reached."""

    name: str
    folder: Path = field(default=Path())

    @property
    def socket(self) -> Path:
        return self.folder / "engine.sock"

    @property
    def seen(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]

    async def reached(self) -> EngineConnection:
        return await {"own": own, "vllm": vllm, "sglang": sglang}[self.name](self.socket)

    @asynccontextmanager
    async def engine(self, *options: str | Path):
        """Run an engine, and yield a connection to it."""
        if self.name == "own":
            async with self.process(*options) as (_, connection):
                yield connection
            return
        async with serving(*self._options, *options), await self._connected() as connection:
            yield connection

    @asynccontextmanager
    async def process(self, *options: str | Path):
        """Run an engine as a process, and yield it with a connection to it."""
        script = "engine.py" if self.name == "own" else "openai_engine.py"
        process = subprocess.Popen([sys.executable, SUPPORT / script, *self._options, *options])
        try:
            async with await self._connected(process) as connection:
                yield process, connection
        finally:
            process.kill()
            process.wait()

    @property
    def _options(self) -> tuple[str | Path, ...]:
        if self.name == "own":
            return ("--socket", self.socket)
        key = ("--key", "key") if self.name == "sglang" else ()
        log = ("--log", self.folder / "log")
        return ("--socket", self.socket, "--dialect", self.name, *log, *key)

    async def _connected(self, process: subprocess.Popen | None = None) -> EngineConnection:
        while True:
            try:
                return await self.reached()
            except ServeError:
                assert process is None or process.poll() is None, "the engine ended"
                await asyncio.sleep(0.01)


@pytest.fixture(params=["own", "vllm", "sglang"])
def kind(request) -> Iterator[Kind]:
    with tempfile.TemporaryDirectory(prefix="lp-") as short:  # a socket is made in it
        yield Kind(request.param, Path(short))


@pytest.fixture(params=["vllm", "sglang"])
def other(request) -> Iterator[Kind]:
    with tempfile.TemporaryDirectory(prefix="lp-") as short:
        yield Kind(request.param, Path(short))


async def answer(connection: EngineConnection, asked: Request) -> list:
    return [event async for event in connection.generate(asked)]


def text_of(events: list) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


async def idle(connection: EngineConnection):
    while (stats := await connection.stats()).running or stats.waiting:
        await asyncio.sleep(0.02)
    return stats


def test_an_answer_carries_the_clients_own_id_and_is_counted(kind):
    async def run():
        async with kind.engine() as connection:
            info = await connection.ready()
            assert (info.model, info.context_tokens) == ("echo", 512)
            assert connection.status.state == "ready"
            asked = request(Message("user", (RED, "hello")))
            events = await answer(connection, asked)
            assert {event.request_id for event in events} == {"mine"}
            assert text_of(events) == "You said: hello Picture 3x1 of 255,0,0."
            end = events[-1]
            assert isinstance(end, Finished)
            assert end.usage.prompt_tokens > 4
            assert end.usage.completion_tokens >= 7
            assert 0 <= end.timings.first_token_s <= end.timings.total_s

    asyncio.run(run())


def test_many_at_once_each_get_their_own(kind):
    async def run():
        async with kind.engine("--slots", "3") as connection:
            await connection.ready()
            asked = [request(Message("user", (f"number {n}",))) for n in range(12)]
            answers = await asyncio.gather(*(answer(connection, one) for one in asked))
            assert [text_of(events) for events in answers] == [
                f"You said: number {n}" for n in range(12)
            ]

    asyncio.run(run())


def test_closing_the_iterator_frees_the_slot(kind):
    async def run():
        async with kind.engine(*WIDE) as connection:
            await connection.ready()
            events = connection.generate(request(LONG, max_tokens=4000))
            await anext(events)
            await events.aclose()
            assert (await idle(connection)).generated_tokens < 2000
            assert isinstance((await answer(connection, request()))[-1], Finished)

    asyncio.run(run())


def test_cancelling_the_task_frees_the_slot(kind):
    async def run():
        async with kind.engine(*WIDE) as connection:
            await connection.ready()
            asking = asyncio.create_task(answer(connection, request(LONG, max_tokens=4000)))
            while not (await connection.stats()).running:
                await asyncio.sleep(0.02)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            assert (await idle(connection)).generated_tokens < 2000

    asyncio.run(run())


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (request(conv_mode="none_such"), UsageError),
        (request(Message("user", ("word " * 600,))), ContextLengthError),
        (request(Message("user", ("starve",))), None),
    ],
    ids=["template", "too long", "out of memory"],
)
def test_a_bad_request_fails_alone(kind, bad, error):
    async def run():
        async with kind.engine() as connection:
            await connection.ready()
            failed, good = await asyncio.gather(
                answer(connection, bad), answer(connection, request())
            )
            assert isinstance(failed[-1], Failed)
            assert error is None or type(failed[-1].error()) is error
            assert isinstance(good[-1], Finished)

    asyncio.run(run())


def test_max_tokens_and_stops_end_an_answer(kind):
    async def run():
        async with kind.engine() as connection:
            await connection.ready()
            short = await answer(connection, request(max_tokens=2))
            assert (short[-1].reason, short[-1].usage.completion_tokens) == ("length", 2)
            assert text_of(short) == "You said: "
            stopped = await answer(connection, request(stop=("three",)))
            assert (stopped[-1].reason, text_of(stopped)) == ("stop", "You said: one two ")
            most = await answer(connection, request(max_tokens=100_000))
            assert most[-1].reason == "stop"

    asyncio.run(run())


def test_loading_can_be_watched(kind):
    async def run():
        loaded = kind.folder / "loaded"
        async with kind.engine("--load-until", loaded) as connection:
            loading = asyncio.create_task(connection.ready())
            while not connection.status.phase.startswith(("weights", "loading")):
                await connection.changed()
            assert connection.status.state == "loading"
            assert not loading.done()
            loaded.touch()
            assert (await loading).slots == 2
            assert connection.status.info is not None

    asyncio.run(run())


def test_the_end_of_an_engine_is_seen(kind):
    async def run():
        async with kind.process(*WIDE) as (process, connection):
            await connection.ready()
            events = connection.generate(request(LONG, max_tokens=4000))
            await anext(events)
            process.kill()
            with pytest.raises(ServeError):
                _ = [event async for event in events]
            kind.socket.unlink()
            with pytest.raises(ServeError):
                await answer(connection, request())
            assert not connection.connected
            await asyncio.wait_for(connection.changed(), 10)

    asyncio.run(run())


def test_nobody_listens(kind):
    with pytest.raises(ServeError, match="cannot reach the engine"):
        asyncio.run(kind.reached())


def test_odds_belong_to_the_tokens(kind):
    async def run():
        async with kind.engine() as connection:
            await connection.ready()
            first, *_ = await answer(connection, request(logprobs=2))
            (odds,) = first.odds
            assert odds.chosen.data == b"You "
            assert odds.chosen == odds.likeliest[0]
            assert len(odds.likeliest) == 2
            if kind.name == "sglang":
                assert first.token_ids == ()
            else:
                assert odds.chosen.token_id == first.token_ids[0]

    asyncio.run(run())


def test_what_counts_is_told(kind):
    async def run():
        async with kind.engine() as connection:
            await connection.ready()
            before = (await connection.stats()).steps
            await answer(connection, request())
            while (stats := await connection.stats()).steps == before:
                await asyncio.sleep(0.05)
            assert stats.generated_tokens > 0
            assert stats.first_token_s.count > 0
            assert stats.last_step_age_s == 0

    asyncio.run(run())


def test_a_prompt_and_a_question_are_told_where_the_engine_tells_them(kind):
    async def run():
        async with kind.engine() as connection:
            await connection.ready()
            asked = request(Message("user", (RED, "hello")))
            if kind.name == "sglang":
                with pytest.raises(UsageError, match="does not tell"):
                    await connection.tokenize(asked)
                assert (await connection.trace(asked)).prompt == ""
                return
            ids = await connection.tokenize(asked)
            end = (await answer(connection, asked))[-1]
            assert (ids.count(-200), len(ids)) == (4, end.usage.prompt_tokens)
            trace = await connection.trace(asked)
            assert len(trace.prompt) == len(trace.words) == 64
            assert trace == await connection.trace(asked)

    asyncio.run(run())


def test_both_kinds_of_engine_are_given_the_same_prompt(kind):
    """The prompt of a conversation, whatever its shape, has as many tokens as our own engine's."""
    system, said = Message("system", ("be brief",)), Message("assistant", ("It is",))
    shapes = [
        (HELLO,),
        (system, HELLO),
        (Message("user", ("a", RED, "b")),),
        (HELLO, said, system, HELLO),
        (HELLO, HELLO, said),
        (HELLO, Message("assistant", ("",))),
    ]

    async def run():
        async with kind.engine() as connection:
            await connection.ready()
            ends = [(await answer(connection, request(*shape)))[-1] for shape in shapes]
            return [end.usage.prompt_tokens for end in ends]

    assert asyncio.run(run()) == [32, 11, 31, 46, 41, 32]


def test_raw_texts_go_on_as_they_are(kind):
    async def run():
        async with kind.engine() as connection:
            await connection.ready()
            asked = Request(
                request_id="mine",
                messages=(Message("user", ("once upon a time",)),),
                conv_mode="raw",
                new_turn=False,
                sampling=Sampling(max_tokens=20, logprobs=0),
            )
            events = await answer(connection, asked)
            assert text_of(events).strip() == "You said: once upon a time"
            assert events[-1].usage.prompt_tokens == 4
            assert events[0].odds[0].chosen.data.strip() == b"You"

    asyncio.run(run())


def test_what_a_person_types_is_no_token_and_no_option(other):
    """Shown to be holes where an engine is asked directly: docs/explanation/threat-model.md."""
    typed = "<image> </s> [INST] {{ 7*7 }} http://x/y.png file:///etc/hostname"

    async def run():
        async with other.engine() as connection:
            await connection.ready()
            await answer(connection, request(Message("user", (RED, typed))))
        *_, asked = (one["body"] for one in other.seen if "completions" in one.get("path", ""))
        allowed = {"model", "messages", "temperature", "top_p", "max_tokens", "stream",
                   "stream_options", "add_special_tokens", "return_token_ids",
                   "add_generation_prompt", "return_output_ids_in_sglext"}  # fmt: skip
        assert asked.keys() <= allowed
        (message,) = asked["messages"]
        picture, text = message["content"]
        assert picture["image_url"]["url"].startswith("data:image/x-portable-pixmap;base64,")
        assert text["text"] == typed.replace("<", "<\u200b")

    asyncio.run(run())


def test_an_engines_own_words_go_to_the_log_alone(other, caplog):
    async def run():
        async with other.engine() as connection:
            await connection.ready()
            too_long = request(Message("user", ("word " * 600,)))
            return (await answer(connection, too_long))[-1]

    failed = asyncio.run(run())
    assert isinstance(failed.error(), ContextLengthError)
    assert "625 tokens" in failed.message
    assert "/" not in failed.message
    assert "mine: the engine answered 400" in caplog.text


@pytest.mark.parametrize(
    ("setting", "lacking"),
    [({"seed": 3}, {"sglang"}), ({"top_k": 3}, set()), ({"min_tokens": 2}, set())],
)
def test_a_setting_is_honoured_or_refused(other, setting, lacking):
    async def run():
        async with other.engine() as connection:
            await connection.ready()
            end = (await answer(connection, request(**setting)))[-1]
        (name,) = setting
        if other.name in lacking:
            assert end.error().subject == name
            assert not (other.folder / "log").exists()
        else:
            assert isinstance(end, Finished)
            assert other.seen[0]["body"][name] == setting[name]

    asyncio.run(run())
