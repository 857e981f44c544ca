"""The connection to an engine of others, before servers that say what a test says."""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from llava_pack.engine.measures import UNTOLD
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
from llava_pack.engine.sampling import Grammar, GrammarError, Sampling
from llava_pack.format.errors import PackError, ServeError, UsageError
from llava_pack.profiles import dialects
from llava_pack.serve.engines.http_exchange import HttpEndpoint
from llava_pack.serve.engines.openai import OpenAiConnection
from llava_pack.serve.engines.openai_errors import failure_in, refusal, room_told
from llava_pack.serve.engines.openai_events import AnswerReader
from llava_pack.serve.engines.openai_facts import EngineFacts

INFO = EngineInfo(
    model="m", precision="fp16", device="cuda", context_tokens=4096, slots=8,
    conv_mode="llava_v1", image_tokens=576,
)  # fmt: skip
ASKED = Request(request_id="r", messages=(Message("user", ("hi",)),))
CARD = json.dumps({"data": [{"id": "m", "max_model_len": 4096}]}).encode()
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
_SLOW_S = 0.2
_Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


@pytest.fixture
def socket() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lp-") as short:
        yield Path(short) / "s"


def whole(body: bytes, status: int = 200, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def chunked(*pieces: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in pieces)


async def asked_of(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Return the path and the body of the next request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lengths = [line for line in head.split("\r\n") if line.lower().startswith("content-length")]
    return head.split()[1], await reader.readexactly(int(lengths[0].split(":")[1]))


@asynccontextmanager
async def listening(socket: Path, serve: Callable):
    """Serve connections at a socket, and wait until each of them has ended."""
    tasks: list[asyncio.Task] = []

    async def noted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await serve(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_unix_server(noted, socket):
        try:
            yield
        finally:
            await asyncio.gather(*tasks)


@asynccontextmanager
async def engine(
    socket: Path, answer: bytes | _Answer, silent_s: float = 600.0, tokens: tuple[str, ...] = ()
):
    """Serve a model card, and what a test says; yield the connection and what was asked."""
    seen: list[tuple[str, bytes]] = []
    closed: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                path, body = await asked_of(reader)
                seen.append((path, body))
                if path == "/v1/models":
                    writer.write(whole(CARD))
                elif isinstance(answer, bytes):
                    writer.write(answer)
                    if b"Content-Length" not in answer and not answer.endswith(b"0\r\n\r\n"):
                        break
                elif await answer(reader, writer) is False:
                    break
                await writer.drain()
        finally:
            closed.append("closed")

    endpoint = HttpEndpoint(partial(asyncio.open_unix_connection, socket), "k", silent_s)
    facts = EngineFacts(endpoint, dialects.VLLM, metrics=dialects.VLLM_METRICS,
                        ready_path="/health", info=INFO, tokens=tokens)  # fmt: skip
    async with listening(socket, serve), OpenAiConnection(facts) as one:
        yield one, seen, closed


def ask(socket: Path, answer: bytes | _Answer, request: Request = ASKED, **options: float) -> list:
    async def run() -> list:
        async with engine(socket, answer, **options) as (connection, _, _):
            return [event async for event in connection.generate(request)]

    return asyncio.run(run())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 17) + b"\r\n\r\n",
        chunked(b'data: {"choi'),
        chunked(b"data: nonsense\n\n", b"") + b"\r\n",
        chunked(b"data: 7\n\n", b"") + b"\r\n",
        chunked(b'data: {"choices":7}\n\n', b"") + b"\r\n",
        chunked(b'data: {"choices":[{"delta":{"content":7}}]}\n\n', b"") + b"\r\n",
        chunked(b'data: {"choices":[{"delta":{},"token_ids":["x"]}]}\n\n', b"") + b"\r\n",
        chunked(b'data: {"choices":[{"text":"a","logprobs":{"content":[{}]}}]}\n\n', b"") + b"\r\n",
        chunked(b'data: {"usage":{"prompt_tokens":"many"}}\n\n', b"") + b"\r\n",
        chunked(b"data: [DONE]\n\n", b"") + b"\r\n",
        chunked(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', b"") + b"\r\n",
        chunked(b'data: {"choices":[{"delta":{},"finish_reason":"error"}]}\n\n', b"") + b"\r\n",
        chunked(b"data: " + b"x" * (9 << 20)),
        chunked(b"[" * 200_000 + b"\n\n", b"") + b"\r\n",
        whole(b"data: " + b"[" * 200_000 + b"\n\n"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=lambda one: one[:24] + one[-40:],
)
def test_what_is_no_answer_is_an_error_of_ours(socket, answer):
    with pytest.raises(ServeError):
        ask(socket, answer)


def test_silence_has_an_end(socket):
    async def nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    with pytest.raises(ServeError, match="said nothing"):
        ask(socket, nothing, silent_s=0.05)


def test_an_answer_is_read_piece_by_piece_and_its_connection_is_kept(socket):
    first = b'data: {"choices":[{"delta":{"content":" A","reasoning_content":"hm"},"token_ids":[1]}]}\r\n\r\n'
    rest = b'data: {"choices":[{"delta":{"content":" b\\ud800"},"token_ids":[2]}]}\n\n: ping\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}\n\n'
    last = b'data: {"choices":[{"index":0,"delta":{"tool_calls":[]},"finish_reason":"length"}]}\n\n'
    stream = chunked(
        first[:20], first[20:] + rest[:5], rest[5:], last, usage, b"data: [DONE]\n\n", b""
    )

    async def run():
        async with engine(socket, stream) as (connection, seen, closed):
            for _ in range(3):
                *deltas, end = [event async for event in connection.generate(ASKED)]
                assert [one.text for one in deltas] == ["A", " b?"]
                assert [one.token_ids for one in deltas] == [(1,), (2,)]
                assert isinstance(end, Finished)
                assert (end.reason, end.usage.prompt_tokens, end.usage.completion_tokens) == (
                    "length", 5, 3,
                )  # fmt: skip
            assert [path for path, _ in seen] == ["/v1/models", *["/v1/chat/completions"] * 3]
            assert closed == []

    asyncio.run(run())


def test_a_kept_connection_that_was_closed_is_opened_again(socket):
    """Servers close what is idle: uvicorn after five seconds."""
    answers = 0

    async def once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        nonlocal answers
        answers += 1
        writer.write(chunked(END, b""))
        await writer.drain()
        return False

    async def run():
        async with engine(socket, once) as (connection, _, closed):
            for number in range(3):
                *_, end = [event async for event in connection.generate(ASKED)]
                assert isinstance(end, Finished)
                assert len(closed) <= number + 1
            return answers

    assert asyncio.run(run()) == 3


def test_who_reads_slowly_has_the_engine_wait(socket):
    """Neither side holds more than its buffers."""
    piece = b'data: {"choices":[{"delta":{"content":"' + b"x" * 4000 + b'"}}]}\n\n'
    written = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            written += len(piece)

    async def run():
        async with engine(socket, flood) as (connection, _, closed):
            events = connection.generate(ASKED)
            await anext(events)
            before = -1
            while before != written:
                before = written
                await asyncio.sleep(0.05)
            await anext(events)
            assert written < 4 << 20
            await events.aclose()
            while not closed:  # noqa: ASYNC110
                await asyncio.sleep(0)

    asyncio.run(run())


def test_large_pictures_are_written_by_a_thread_and_let_go(socket):
    picture = Picture(1200, 900, bytes(1200 * 900 * 3))
    request = Request(request_id="r", messages=(Message("user", (picture, "what")),))

    async def run():
        async with engine(socket, chunked(END, b"")) as (connection, seen, _):
            *_, end = [event async for event in connection.generate(request)]
            assert isinstance(end, Finished)
            body = json.loads(seen[-1][1])
            assert len(body["messages"][0]["content"][0]["image_url"]["url"]) > 4_000_000

    asyncio.run(run())


def test_an_error_within_a_stream_is_the_end_of_the_answer(socket):
    begun = b'data: {"choices":[{"delta":{"content":" A"}}]}\n\n'
    for error in (
        b'{"error":{"message":"OOM in /opt/x.py","code":500}}',
        b'{"error":{"object":"error","message":"OOM in /opt/x.py","code":500}}',
        b'{"object":"error","message":"OOM in /opt/x.py","code":500}',
        b'{"error":"OOM in /opt/x.py"}',
    ):
        said, failed = ask(socket, chunked(begun, b"data: " + error + b"\n\n", b""))
        assert isinstance(said, Delta)
        assert isinstance(failed, Failed)
        assert isinstance(failed.error(), ServeError)
        assert "/opt" not in failed.message + failed.hint
        socket.unlink(missing_ok=True)


def test_less_is_asked_for_where_the_engine_says_how_much_room_there_is(socket):
    told = (
        b"Requested token count exceeds the model's maximum context length of 100 tokens. You "
        b"requested a total of 130 tokens: 30 tokens from the input messages and 100 tokens"
    )
    asked: list[int] = []

    async def run():
        async with engine(socket, answer) as (connection, seen, _):
            *_, end = [event async for event in connection.generate(ASKED)]
            asked.extend(json.loads(body)["max_tokens"] for _, body in seen if body)
            return end

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered = [whole(json.dumps({"message": told.decode()}).encode(), 400), chunked(END, b"")]
        writer.write(answered[len(calls)])
        calls.append(1)

    calls: list[int] = []
    assert isinstance(asyncio.run(run()), Finished)
    assert asked == [512, 70]


_VLLM = (
    "This model's maximum context length is 1024 tokens. However, your prompt contains at least "
    "1025 input tokens, which exceeds this limit even without any output tokens."
)
_OLDER = (
    "This model's maximum context length is 1024 tokens. However, you requested 1025 tokens in "
    "the messages, Please reduce the length of the messages."
)
_CHARS = (
    "This model's maximum context length is 1024 tokens. However, your prompt contains 9 characters"
)
_SGLANG = "The input (1025 tokens) is longer than the model's context length (1024 tokens)."
_LMDEPLOY = "Input length (1025) must be smaller than the model context length (1024)."


@pytest.mark.parametrize(
    ("status", "said", "sampling", "kind", "words"),
    [
        (400, {"error": {"message": _VLLM}}, {}, ContextLengthError, "at least 1025 tokens"),
        (400, {"error": {"message": _OLDER}}, {}, ContextLengthError, "1025 tokens"),
        (400, {"error": {"message": _CHARS}}, {}, ContextLengthError, "limit is 1024"),
        (400, {"object": "error", "message": _SGLANG}, {}, ContextLengthError, "1025 tokens"),
        (400, {"object": "error", "message": _LMDEPLOY}, {}, ContextLengthError, "1025 tokens"),
        (
            400,
            {"message": "Grammar error: x"},
            {"grammar": Grammar("regex", "(")},
            GrammarError,
            "",
        ),
        (400, {"error": {"message": "no", "param": "top_k"}}, {}, UsageError, "this value"),
        (422, {"detail": [{"loc": ["body"]}]}, {}, UsageError, "this request"),
        (413, b"<html>", {}, UsageError, "this request"),
        (401, {"error": {"message": "key"}}, {}, ServeError, "key"),
        (404, {"error": {"message": "no model at /x"}}, {}, ServeError, "failed"),
        (500, b"\xff\xfe", {}, ServeError, "failed"),
        (503, b"", {}, ServeError, "just now"),
    ],
)
def test_what_an_engine_refuses_is_told_in_our_words(status, said, sampling, kind, words):
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    request = replace(ASKED, sampling=Sampling(**sampling))
    error = refusal(status, body, request, dialects.VLLM)
    assert type(error) is kind
    assert words in error.message
    assert "/x" not in str(error)
    assert type(Failed.of("r", error).error()) is kind
    setting = said["error"].get("param", "") if isinstance(said, dict) and "error" in said else ""
    assert error.subject == setting


def test_only_an_answer_that_says_so_has_room():
    assert room_told(400, b"{}") is None
    assert room_told(500, json.dumps({"message": _SGLANG}).encode()) is None
    assert failure_in({"choices": []}) is None


def test_odds_of_either_form_are_read():
    def read(choice: dict) -> Delta:
        found = AnswerReader("r", opened=True, tokens=frozenset({"</s>"})).take(
            {"choices": [choice]}
        )
        assert found is not None
        return found

    top = [{"token": "a", "logprob": -0.1, "bytes": [97]}, {"token": "b", "logprob": None}]
    step = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": top}
    end = {"token": "</s>", "logprob": -0.2, "bytes": [60]}
    chat = read(
        {"delta": {"content": " a"}, "token_ids": [5, 2], "logprobs": {"content": [step, end]}}
    )
    assert [one.chosen.token_id for one in chat.odds] == [5, 2]
    assert [one.token_id for one in chat.odds[0].likeliest] == [5, UNTOLD]
    assert chat.odds[0].likeliest[1].logprob == -9999.0
    assert chat.odds[1].chosen.data == b""
    named = read(
        {"delta": {}, "logprobs": {"content": [{"token": "token_id:7", "logprob": float("nan")}]}}
    )
    assert (named.odds[0].chosen.token_id, named.odds[0].chosen.logprob) == (7, -9999.0)
    older = {"tokens": [" a"], "token_logprobs": [-1], "top_logprobs": [{"b": -2, " a": -1}]}
    text = read({"text": " a", "logprobs": older})
    assert (text.text, text.odds[0].chosen.token_id) == ("a", UNTOLD)
    assert [one.data for one in text.odds[0].likeliest] == [b" a", b"b"]


def test_ids_that_come_at_the_end_are_taken():
    """Source: sglang 0.5.23, return_output_ids_in_sglext."""
    told = AnswerReader("r", opened=True).take({"choices": [], "sglext": {"output_ids": [[1, 2]]}})
    assert told == Delta("r", "", (1, 2))


@pytest.mark.parametrize("card", [b"{}", b'{"data":[]}', b'{"data":[{"id":"m"}]}', b"no"])
def test_an_engine_that_tells_nothing_of_its_model_is_not_ready(socket, card):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            path, _ = await asked_of(reader)
            writer.write(whole(card if path == "/v1/models" else b""))

    async def ready():
        async with listening(socket, serve):
            endpoint = HttpEndpoint(partial(asyncio.open_unix_connection, socket))
            facts = EngineFacts(endpoint, dialects.VLLM, ready_path="/health")
            async with OpenAiConnection(facts) as connection:
                await connection.ready()

    with pytest.raises(PackError):
        asyncio.run(ready())


def test_steps_that_stop_are_told_and_idleness_is_not(socket):
    now = 100.0
    counted = {"steps": 1, "running": 1}

    async def metrics(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = (
            f"vllm:iteration_tokens_total_count {counted['steps']}\n"
            f"vllm:num_requests_running {counted['running']}\n"
        )
        writer.write(whole(text.encode()))

    async def run():
        nonlocal now
        async with engine(socket, metrics) as (connection, seen, _):
            facts = EngineFacts(connection._facts.endpoint, dialects.VLLM, info=INFO,
                                metrics=dialects.VLLM_METRICS, clock=lambda: now)  # fmt: skip

            async def age(after_s: float) -> float:
                nonlocal now
                now += after_s
                return (await facts.stats()).last_step_age_s

            assert await age(0) == 0
            assert await age(0.5) == 0
            assert len(seen) == 1, "it is asked once a second at most"
            assert await age(2) == 2.5
            assert await age(3) == 5.5
            counted["steps"] += 1
            assert await age(2) == 0
            assert await age(9) == 9
            counted["running"] = 0
            assert await age(2) == 0
            assert await age(50) == 0

    asyncio.run(run())


def test_the_wait_for_a_first_token_begins_when_it_is_asked(socket):
    """vLLM sends the head of an answer together with its first words."""

    async def slowly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(_SLOW_S)
        words = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
        writer.write(chunked(words, END, b"") + b"\r\n")

    *_, end = ask(socket, slowly)
    assert isinstance(end, Finished)
    assert end.timings.first_token_s >= _SLOW_S


@pytest.mark.parametrize(
    ("tokens", "ids"), [(("<image>",), (1, -200)), (("<IMG_CONTEXT>",), (1, 9))]
)
def test_the_token_of_a_picture_is_told_apart_where_it_is_the_one_that_is_known(
    socket: Path, tokens: tuple[str, ...], ids: tuple[int, ...]
) -> None:
    asked = replace(ASKED, messages=(Message("user", (Picture(1, 1, b"abc"), "hi")),))

    async def run() -> tuple[int, ...]:
        answer = whole(json.dumps({"tokens": [1, 9]}).encode())
        async with engine(socket, answer, tokens=tokens) as (connection, _, _):
            return await connection.tokenize(asked)

    assert asyncio.run(run()) == ids
