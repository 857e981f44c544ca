"""Where one gateway saturates before many replicas, and what each token and each probe costs it.

    python benchmarks/scale.py [--replicas 100] [--slots 8] [--rate 25] [--tokens 64]

A front as `serve --replica` starts it, fenced, in its own processes, over stub servers that answer
as llava-pack's do: each stream says so many tokens at so many a second, so that what does not keep
up is the front. Clients ask one question after the other; their number doubles until a doubling
brings less than a tenth more. Processor time is the front's own (gateway and supervisor apart), so
a busy machine moves the seconds and hardly these. TTFT is from the first byte sent to the first
token read.
"""

import argparse
import asyncio
import contextlib
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.gateway import TOKEN, Gateway, gateway

_MOST_CLIENTS = 512
"""Connections that a gateway takes of one address."""
_GAIN = 1.1
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


# --- the stub servers: one process for all of them ------------------------------------------------


@dataclass
class _Stub:
    """What answers as one llava-pack server."""

    slots: int
    rate: float
    tokens: int
    running: int = 0
    steps: int = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1]
                if path == b"/v1/chat/completions":
                    lines = head.lower().split(b"\r\n")
                    size = next(line for line in lines if line.startswith(b"content-length:"))
                    await reader.readexactly(int(size.split(b":")[1]))
                    await self._stream(writer)
                else:
                    body = json.dumps(self._probe(path)).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                    writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        self.running += 1
        loop, began_s = asyncio.get_running_loop(), time.monotonic()
        try:
            writer.write(_HEAD)
            for number in range(self.tokens):
                wait_s = began_s + (number + 1) / self.rate - time.monotonic()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                self.steps += 1
                writer.write(_TOKEN)
                await writer.drain()
            writer.write(_ended(self.tokens))
        finally:
            self.running -= 1
        assert loop.is_running()

    def _probe(self, path: bytes) -> dict[str, object]:
        running, waiting = min(self.running, self.slots), max(0, self.running - self.slots)
        moves = {"steps": self.steps, "running": running, "waiting": waiting, "stalled_s": 0.0}
        started = {
            "phase": "ready", "detail": "", "done_bytes": 0, "total_bytes": 0, "precision": "fp16",
            "device": "cuda", "context_tokens": 4096, "slots": self.slots,
        }  # fmt: skip
        return {
            b"/readyz": {"models": {"echo": "ready"}, "bundle_id": None, "replicas": 0},
            b"/startupz": {"models": {"echo": started}},
            b"/livez": {"models": {"echo": moves}},
        }.get(path, {})


def _event(choices: list[dict[str, object]], **more: object) -> bytes:
    head = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1}
    body = json.dumps({**head, "model": "echo", "choices": choices, **more}, separators=(",", ":"))
    data = f"data: {body}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def _choice(delta: dict[str, str], reason: str | None = None) -> dict[str, object]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


_TOKEN = _event([_choice({"content": "word "})], usage=None)


def _ended(tokens: int) -> bytes:
    usage = {"prompt_tokens": 600, "completion_tokens": tokens, "total_tokens": 600 + tokens}
    ends = _event([_choice({}, "stop")]) + _event([], usage=usage)
    return ends + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def _serve_stubs(sockets: Sequence[str], slots: int, rate: float, tokens: int) -> None:
    async def run() -> None:
        for path in sockets:
            await asyncio.start_unix_server(_Stub(slots, rate, tokens).talk, path)
        await asyncio.Event().wait()

    asyncio.run(run())


# --- the clients ------------------------------------------------------------------------------


@dataclass
class _Seen:
    """What clients saw within the window that is measured."""

    first_s: list[float] = field(default_factory=list)
    tokens: int = 0
    answers: int = 0
    errors: int = 0


async def _client(port: int, number: int, seen: _Seen, over: asyncio.Event) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    asked = 0
    with contextlib.closing(writer):
        while not over.is_set():
            asked += 1
            content = f"question {asked} of client {number}"
            body = json.dumps(
                {
                    "model": "echo",
                    "stream": True,
                    "messages": [{"role": "user", "content": content}],
                }
            ).encode()
            began_s = time.monotonic()
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\n"
                + f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            await _answer(reader, began_s, seen)


async def _answer(reader: asyncio.StreamReader, began_s: float, seen: _Seen) -> None:
    first = True
    rest = b""
    while not rest.endswith(b"0\r\n\r\n"):
        data = await reader.read(1 << 16)
        if not data:
            raise ConnectionError("the gateway hung up")
        count = data.count(b'"content":"word ')
        if count and first:
            first = False
            seen.first_s.append(time.monotonic() - began_s)
        seen.tokens += count
        if b'"error"' in data:
            seen.errors += 1
        rest = (rest + data)[-16:]
    seen.answers += 1


# --- one stage --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stage:
    clients: int
    answers_s: float
    tokens_s: float
    p50_ms: float
    p99_ms: float
    gateway: float
    supervisor: float
    errors: int

    @property
    def token_us(self) -> float:
        """Processor time of the gateway for a token, requests' and probes' own included."""
        return 1e6 * self.gateway / self.tokens_s if self.tokens_s else 0.0


async def _stage(served: Gateway, clients: int, seconds: float) -> _Stage:
    seen, over = _Seen(), asyncio.Event()
    asking = [
        asyncio.create_task(_client(served.port, number, seen, over)) for number in range(clients)
    ]
    await asyncio.sleep(2.0)  # the front is warm, and all streams are under way
    processes = [psutil.Process(served.gateway_pid()), psutil.Process(served.process.pid)]
    seen.first_s.clear()
    seen.tokens = seen.answers = seen.errors = 0
    before, began_s = [_spent_s(one) for one in processes], time.monotonic()
    await asyncio.sleep(seconds)
    took_s = time.monotonic() - began_s
    spent = [_spent_s(one) - at for one, at in zip(processes, before, strict=True)]
    counted, firsts = (seen.answers, seen.tokens, seen.errors), sorted(seen.first_s)
    over.set()
    await asyncio.gather(*asking)
    percent = statistics.quantiles(firsts, n=100) if len(firsts) > 1 else [0.0] * 99
    return _Stage(
        clients=clients,
        answers_s=counted[0] / took_s,
        tokens_s=counted[1] / took_s,
        p50_ms=1000 * percent[49],
        p99_ms=1000 * percent[98],
        gateway=spent[0] / took_s,
        supervisor=spent[1] / took_s,
        errors=counted[2],
    )


def _spent_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> int:
    """Print a row for each number of clients, and the knee."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=100)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--rate", type=float, default=25.0, help="tokens a second of a stream")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--seconds", type=float, default=10.0, help="that each row is measured")
    parser.add_argument("--clients", type=int, nargs="*", default=[])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lp-") as short:
        sockets = [f"{short}/{number}.sock" for number in range(given.replicas)]
        told = (sockets, given.slots, given.rate, given.tokens)
        stubs = multiprocessing.get_context("spawn").Process(target=_serve_stubs, args=told)
        stubs.start()
        try:
            while not Path(sockets[-1]).exists():
                time.sleep(0.05)
            words = [word for path in sockets for word in ("--replica", f"unix:{path}")]
            with gateway(Path(short) / "run", "--models", *words) as served:
                _rows(served, given)
        finally:
            stubs.kill()
            stubs.join()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end")
    return 0


def _rows(served: Gateway, given: argparse.Namespace) -> None:
    until_s = time.monotonic() + 60
    with served.client() as http:
        while time.monotonic() < until_s:
            told = http.get("/startupz").json()["models"]["echo"]["replicas"].values()
            if all(one["phase"] == "ready" for one in told):
                break
            time.sleep(0.2)
    idle = asyncio.run(_stage(served, 0, given.seconds))
    print(
        f"{given.replicas} replicas of {given.slots} slots, {given.rate:g} tokens/s a stream; "
        f"idle: gateway {idle.gateway:.2f} cores, supervisor {idle.supervisor:.2f}"
    )
    print(
        "| clients | answers/s | tokens/s | TTFT p50 / p99 ms | gateway | supervisor | µs a token |"
    )
    print("|---|---|---|---|---|---|---|")
    before: _Stage | None = None
    least_us = math.inf
    clients = [2**n for n in range(3, 10)]
    for count in given.clients or [one for one in clients if one <= _MOST_CLIENTS]:
        row = asyncio.run(_stage(served, count, given.seconds))
        print(
            f"| {row.clients} | {row.answers_s:.1f} | {row.tokens_s:.0f} | {row.p50_ms:.0f} / "
            f"{row.p99_ms:.0f} | {row.gateway:.2f} | {row.supervisor:.2f} | {row.token_us:.0f} |"
            + (f" {row.errors} errors" if row.errors else ""),
            flush=True,
        )
        least_us = min(least_us, row.token_us or math.inf)
        if before is not None and not given.clients and row.tokens_s < _GAIN * before.tokens_s:
            print(f"the knee: {before.clients} clients, {before.tokens_s:.0f} tokens/s")
            break
        before = row
    streams = 1e6 / least_us / given.rate
    print(f"a core of its own: {1e6 / least_us:.0f} tokens/s, {streams:.0f} such streams")


if __name__ == "__main__":
    sys.exit(main())
