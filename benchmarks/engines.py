"""What the gateway costs before an engine of the field: the engine alone, and the same behind it.

    python benchmarks/engines.py --prefix DIR [--rounds N] [--seconds S] [--starts N] [--pin]

DIR has a bundle installed whose engine is another's (tests/engines makes one for a CPU). Requests
are asked of the engine's own socket and of the gateway before it, in turns, by one client: same
process, same prompts, same minute. Starts and stops are those of the very command line that `serve`
runs, given alone. Run it where nothing else runs: the client takes part of the cores too. With
`--pin` the engine has the first core for itself, asked either way, and all else has the others: as
where a GPU computes, and the engine does not keep every core busy.
"""

import argparse
import asyncio
import base64
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
MODEL = "llava-v1-demo"
_PICTURE = ROOT / "bundles" / "known-answers" / "red-circle.png"
_KINDS: dict[str, dict[str, Any]] = {
    "an answer of 9 tokens": {},
    "64 tokens": {"ignore_eos": True, "max_tokens": 64},
}
Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Opener: TypeAlias = Callable[[], Awaitable[Streams]]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The process that serves the model, as it was started."""

    pid: int
    argv: list[str]
    environ: dict[str, str]
    folder: str
    socket: Path


@dataclass
class Figures:
    """What one way of asking gave, of all its turns."""

    requests: int = 0
    tokens: int = 0
    seconds: float = 0.0
    first_s: list[float] = field(default_factory=list)

    def line(self) -> str:
        """Return the rates, and the median of the times to a first token."""
        rate, speed = self.requests / self.seconds, self.tokens / self.seconds
        first_ms = 1000 * statistics.median(self.first_s)
        return f"{rate:6.1f} requests/s {speed:7.1f} tokens/s first token p50 {first_ms:6.1f} ms"


def question(**more: Any) -> dict[str, Any]:
    """Return what is asked: a picture and a question."""
    data = base64.b64encode(_PICTURE.read_bytes()).decode()
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    content = [picture, {"type": "text", "text": "What is in the picture?"}]
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "temperature": 0}
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    return {**body, "max_tokens": 32, **usage, **more}


@contextmanager
def served(prefix: Path, slots: int) -> Iterator[tuple[dict[str, Any], int, float]]:
    """Serve, and yield what it told, its process number and how long it took; then stop it."""
    command = [str(prefix / "bin" / "llava-pack"), "serve", "--as-root", "--port", "0", "--json"]
    began = time.monotonic()
    with subprocess.Popen(
        [*command, "--slots", str(slots)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            yield told, process.pid, time.monotonic() - began
        finally:
            process.terminate()
            process.wait()


def engine_below(pid: int) -> Engine:
    """Return the engine below a server, by the option that names its socket."""
    for child in psutil.Process(pid).children(recursive=True):
        line = child.cmdline()
        if "--uds" in line and "serve" in line:
            socket = Path(line[line.index("--uds") + 1])
            environ, folder = child.environ(), child.cwd()
            return Engine(pid=child.pid, argv=line, environ=environ, folder=folder, socket=socket)
    raise SystemExit("no engine that listens at a socket runs below the server")


def pin(server: int, engine: Engine) -> None:
    """Give an engine's processes the first core, and the gateway and this client the others."""
    first, *others = sorted(os.sched_getaffinity(0))
    own = psutil.Process(engine.pid)
    inside = {engine.pid, *(one.pid for one in own.children(recursive=True))}
    for process in psutil.Process(server).children(recursive=True):
        for thread in process.threads():
            os.sched_setaffinity(thread.id, {first} if process.pid in inside else others)
    os.sched_setaffinity(0, others)


async def ask(opener: Opener, head: bytes, body: bytes, figures: Figures, until_s: float) -> None:
    """Ask one question after the other over one connection, until a moment."""
    reader, writer = await opener()
    while (began := time.monotonic()) < until_s:
        writer.write(head + body)
        first_s, tokens = 0.0, 0
        while (line := await reader.readline()).strip() != b"data: [DONE]":
            assert line, "the connection was closed"
            if not first_s and b'"content":"' in line and b'"content":""' not in line:
                first_s = time.monotonic() - began
            if b'"usage":{' in line:
                tokens = json.loads(line[6:])["usage"]["completion_tokens"]
        while (await reader.readline()).strip() != b"0":
            pass
        await reader.readline()
        figures.requests, figures.tokens = figures.requests + 1, figures.tokens + tokens
        figures.first_s.append(first_s)
    writer.close()
    await writer.wait_closed()


async def turn(
    opener: Opener, head: bytes, body: bytes, clients: int, seconds: float, figures: Figures
) -> None:
    """Ask for some seconds, so many at once."""
    began = time.monotonic()
    asked = [ask(opener, head, body, figures, began + seconds) for _ in range(clients)]
    await asyncio.gather(*asked)
    figures.seconds += time.monotonic() - began


def head_of(body: bytes, key: str) -> bytes:
    """Return the head of a request."""
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body)}",
    ]
    lines += ["Content-Type: application/json", *([f"Authorization: Bearer {key}"] if key else [])]
    return "\r\n".join([*lines, "", ""]).encode()


def rates(told: dict[str, Any], engine: Engine, rounds: int, seconds: float) -> None:
    """Print what the engine gives alone and through the gateway, in turns."""
    ways: dict[str, tuple[Opener, str]] = {
        "alone": (lambda: asyncio.open_unix_connection(engine.socket), ""),
        "gateway": (lambda: asyncio.open_connection("127.0.0.1", told["port"]), told["token"]),
    }
    own = {"add_special_tokens": True, "model": MODEL}
    for kind, more in _KINDS.items():
        for clients in (1, 8):
            figures = {way: Figures() for way in ways}
            for number in range(rounds):
                for way in sorted(ways, reverse=bool(number % 2)):
                    body = question(**more, **(own if way == "alone" else {}))
                    written = json.dumps(body).encode()
                    opener, key = ways[way]
                    head = head_of(written, key)
                    asyncio.run(turn(opener, head, written, clients, seconds, figures[way]))
            _print_rates(f"{kind}, {clients} at once", figures)


def _print_rates(what: str, figures: dict[str, Figures]) -> None:
    alone, behind = figures["alone"], figures["gateway"]
    print(what)
    print(f"  engine alone  {alone.line()}")
    print(f"  gateway       {behind.line()}")
    ratio = (behind.tokens / behind.seconds) / (alone.tokens / alone.seconds)
    later_ms = 1000 * (statistics.median(behind.first_s) - statistics.median(alone.first_s))
    print(f"  gateway/alone {ratio:.2f} of the tokens, first token {later_ms:+.1f} ms", flush=True)


def alone_s(engine: Engine) -> tuple[float, float]:
    """Start the engine by itself; return seconds until it gave an answer, and until it ended."""
    with tempfile.TemporaryDirectory(prefix="lp-alone-") as folder:
        socket = Path(folder) / "engine.sock"
        own = str(engine.socket.parent)
        line = [str(socket) if word == str(engine.socket) else word for word in engine.argv]
        environ = {name: value.replace(own, folder) for name, value in engine.environ.items()}
        for value in environ.values():
            if value.startswith(folder):
                Path(value).mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with subprocess.Popen(
            line, env=environ, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            transport = httpx.HTTPTransport(uds=str(socket))
            with httpx.Client(transport=transport, base_url="http://engine", timeout=300) as http:
                while not _answered(http):
                    assert process.poll() is None, "the engine ended"
                    time.sleep(0.1)
            ready_s = time.monotonic() - began
            told = time.monotonic()
            process.terminate()
            process.wait()
            return ready_s, time.monotonic() - told


def _answered(http: httpx.Client) -> bool:
    """Return whether it answered: what counts as ready behind the gateway too."""
    try:
        body = {**question(), "stream": False}
        body.pop("stream_options")
        return http.post("/v1/chat/completions", json=body).status_code == 200
    except httpx.TransportError:
        return False


def main() -> int:
    """Print rates, then starts and stops."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--pin", action="store_true")
    given = parser.parse_args()
    cores = os.sched_getaffinity(0)
    starts: list[tuple[float, float, float, float]] = []
    engine: Engine | None = None
    for number in range(max(1, given.starts)):
        with served(given.prefix, 8) as (told, pid, ready_s):
            engine = engine_below(pid)
            if number == 0 and given.rounds:
                if given.pin:
                    pin(pid, engine)
                rates(told, engine, given.rounds, given.seconds)
                os.sched_setaffinity(0, cores)
            began = time.monotonic()
        stopped_s = time.monotonic() - began
        if given.starts:
            starts.append((ready_s, stopped_s, *alone_s(engine)))
    for ready, stopped, alone_ready, alone_stopped in starts:
        print(f"start to the first answer {ready:.1f} s, alone {alone_ready:.1f} s", end="; ")
        print(f"stop {stopped:.1f} s, alone {alone_stopped:.1f} s")
    print(f"{os.cpu_count()} cores, {_cpu()}, load {os.getloadavg()[0]:.1f}")
    return 0


def _cpu() -> str:
    found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else "an unknown processor"


if __name__ == "__main__":
    sys.exit(main())
