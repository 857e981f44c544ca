"""What the gateway costs before an engine of others: a stub asked directly, and through it.

    python benchmarks/adapter.py [--token-s 0.02] [--clients 8] [--seconds 10] [--rounds 3]

Both are asked the same questions, in turns, by one client over kept connections. The engine takes a
fixed time for each token, whoever asks: what is measured is all that is not the engine.
"""

import argparse
import asyncio
import base64
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llava_pack.format.errors import ServeError
from llava_pack.serve.engines.event_stream import EventStream
from llava_pack.serve.engines.http_body import Body
from llava_pack.serve.engines.http_exchange import HttpEndpoint
from llava_pack.serve.engines.openai_request import CHAT
from tests.support.gateway import ROOT, TOKEN, gateway

_WORDS = "what is in this picture and which colour has it, please say it in a few words"


@dataclass
class Round:
    """What one round of questions took."""

    answers: int
    seconds: float
    first_s: list[float]

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


def body(side: int) -> Body:
    content: list[dict[str, object]] = [{"type": "text", "text": _WORDS}]
    if side:
        content.insert(0, {"type": "image_url", "image_url": {"url": picture(side)}})
    fields = json.dumps(
        {
            "model": "echo",
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 64,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    return Body((fields.encode(),))


def picture(side: int) -> str:
    file = io.BytesIO()
    image = Image.radial_gradient("L").resize((side, side))
    Image.merge("RGB", (image, image.rotate(90), image.transpose(0))).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


async def ask(endpoint: HttpEndpoint, question: Body) -> float:
    """Return the seconds to the first word; raises where there is no answer."""
    began_s, first_s = time.perf_counter(), 0.0
    stream = EventStream()
    async with endpoint.asked("POST", CHAT, question) as response:
        assert response.status == 200, await response.whole(1 << 16)
        async for piece in response.pieces():
            for data in stream.feed(piece):
                if not first_s and said(data):
                    first_s = time.perf_counter() - began_s
    assert first_s
    return first_s


def said(data: bytes) -> bool:
    """Return whether an event has a word."""
    choices = json.loads(data)["choices"] if data != b"[DONE]" else ()
    return any(choice["delta"].get("content") for choice in choices)


async def run(endpoint: HttpEndpoint, question: Body, clients: int, seconds: float) -> Round:
    first: list[float] = []
    until_s = time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < until_s:
            first.append(await ask(endpoint, question))

    began_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Round(len(first), time.perf_counter() - began_s, first)


async def compare(
    given: argparse.Namespace, question: Body, socket: Path, port: int
) -> list[tuple[Round, Round]]:
    direct = HttpEndpoint(partial(asyncio.open_unix_connection, socket))
    through = HttpEndpoint(partial(asyncio.open_connection, "127.0.0.1", port), TOKEN)
    while True:
        try:
            await direct.meet()
            break
        except ServeError:
            await asyncio.sleep(0.05)
    for endpoint in (direct, through):
        await run(endpoint, question, given.clients, 1.0)
    rounds = [
        (
            await run(direct, question, given.clients, given.seconds),
            await run(through, question, given.clients, given.seconds),
        )
        for _ in range(given.rounds)
    ]
    await direct.close()
    await through.close()
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--token-s", type=float, default=0.02)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, nargs="+", default=[0, 336, 1024])
    given = parser.parse_args()
    options = ["--step-s", str(given.token_s), "--slots", str(given.clients), "--context", "4096"]
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        folder = Path(name)
        stub = ROOT / "tests" / "support" / "openai_engine.py"
        socket = folder / "direct.sock"
        alone = subprocess.Popen([sys.executable, stub, "--socket", socket, *options])
        try:
            with gateway(folder / "state", "--dialect", "vllm", engine=" ".join(options)) as served:
                process = psutil.Process(served.gateway_pid())
                for side in given.side:
                    before = process.cpu_times()
                    rounds = asyncio.run(compare(given, body(side), socket, served.port))
                    after = process.cpu_times()
                    used_s = after.user + after.system - before.user - before.system
                    tell(side, rounds, used_s)
        finally:
            alone.terminate()
            alone.wait()


def tell(side: int, rounds: list[tuple[Round, Round]], used_s: float) -> None:
    for direct, through in rounds:
        firsts = [1000 * statistics.median(one.first_s) for one in (direct, through)]
        print(
            f"{side}x{side}: engine {direct.per_s:.1f}/s, first token {firsts[0]:.0f} ms; "
            f"gateway {through.per_s:.1f}/s, {firsts[1]:.0f} ms; "
            f"ratio {through.per_s / direct.per_s:.2f}, first token +{firsts[1] - firsts[0]:.0f} ms"
        )
    answers = sum(through.answers for _, through in rounds)
    print(f"  processor time of the gateway: {1000 * used_s / answers:.1f} ms an answer")


if __name__ == "__main__":
    main()
