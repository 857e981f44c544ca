"""Many clients for a long time: no error, and no growth of memory.

    python benchmarks/soak.py [--clients 64] [--minutes 10]

The engine is the reference one behind the port. Clients ask with and without pictures,
stream or not, and one in eight leaves in the middle of an answer. Loopback only. Exit code 1
where a request failed, a slot was not freed, or the gateway grew by more than a tenth after the
first quarter.
"""

import argparse
import base64
import io
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.gateway import Gateway, gateway

_GROWTH = 1.1
_LOOK_EVERY_S = 1.0


def picture(seed: int) -> dict[str, Any]:
    """Return a small picture of some colour, as a part of a message."""
    out = io.BytesIO()
    red, green, blue = random.Random(seed).randbytes(3)
    Image.new("RGB", (64, 48), (red, green, blue)).save(out, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def body(dice: random.Random) -> dict[str, Any]:
    """Return a request."""
    content: list[dict[str, Any]] = [{"type": "text", "text": "word " * dice.randrange(1, 60)}]
    if dice.random() < 0.5:
        content.insert(0, picture(dice.randrange(8)))
    return {
        "model": "echo",
        "stream": dice.random() < 0.7,
        "max_tokens": 60,
        "messages": [{"role": "user", "content": content}],
    }


def client(served: Gateway, seed: int, until_s: float, outcome: Counter[str]) -> None:
    """Ask until the time is over."""
    dice = random.Random(seed)
    with served.client() as http:
        while time.monotonic() < until_s:
            try:
                outcome[_ask(http, body(dice), leave=dice.random() < 1 / 8)] += 1
            except (httpx.HTTPError, AssertionError) as error:
                outcome[f"failed: {error!r}"[:200]] += 1


def _ask(http: httpx.Client, asked: dict[str, Any], *, leave: bool) -> str:
    if not asked["stream"]:
        answer = http.post("/v1/chat/completions", json=asked)
        assert answer.status_code == 200, answer.text
        return "whole"
    with http.stream("POST", "/v1/chat/completions", json=asked) as stream:
        assert stream.status_code == 200, stream.read()
        last = ""
        for line in stream.iter_lines():
            if leave:
                return "left"
            last = line or last
    assert last == "data: [DONE]", last
    return "streamed"


def soak(served: Gateway, clients: int, seconds: float) -> tuple[Counter[str], list[int], int]:
    """Return outcomes, the gateway's memory over time in bytes, and what was busy at the end."""
    outcome: Counter[str] = Counter()
    until_s = time.monotonic() + seconds
    threads = [
        threading.Thread(target=client, args=(served, number, until_s, outcome))
        for number in range(clients)
    ]
    process = psutil.Process(served.gateway_pid())
    memory: list[int] = []
    for thread in threads:
        thread.start()
    while time.monotonic() < until_s:
        memory.append(process.memory_info().rss)
        time.sleep(min(_LOOK_EVERY_S, seconds / 8))
    for thread in threads:
        thread.join()
    with served.client() as http:
        settled_s = time.monotonic() + 30
        while (busy := _busy(http)) and time.monotonic() < settled_s:
            time.sleep(0.1)
    return outcome, memory, busy


def _busy(http: httpx.Client) -> int:
    models = http.get("/livez").json()["models"].values()
    return sum(model["running"] + model["waiting"] for model in models)


def verdict(outcome: Counter[str], memory: list[int], busy: int) -> list[str]:
    """Return what is wrong."""
    wrong = [f"{count} x {what}" for what, count in outcome.items() if what.startswith("failed")]
    settled, end = max(memory[: len(memory) // 4 + 1]), max(memory[-len(memory) // 4 :])
    if end > settled * _GROWTH:
        wrong.append(f"the gateway grew from {settled} to {end} bytes")
    if busy:
        wrong.append(f"{busy} slots were not freed")
    return wrong


def main() -> int:
    """Soak, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="lp-") as folder,
        gateway(Path(folder) / "run", engine="--slots 8 --step-s 0.005") as served,
    ):
        outcome, memory, busy = soak(served, given.clients, 60 * given.minutes)
    wrong = verdict(outcome, memory, busy)
    told = ", ".join(f"{count} {what}" for what, count in sorted(outcome.items()))
    megabytes = [round(value / 1e6) for value in (memory[0], memory[len(memory) // 4], memory[-1])]
    print(f"{given.clients} clients, {given.minutes:g} minutes: {told}")
    print(f"memory of the gateway at the start, after a quarter, at the end: {megabytes} MB")
    print(*wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
