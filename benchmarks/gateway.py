"""What the gateway costs for each streamed token: its own processor time, nobody else's.

    python benchmarks/gateway.py [--clients 8] [--answers 40]

The reference engine behind the port says words as fast as it can, so that the gateway is what is
measured: socket, protocol, events, server-sent events, guard. Processor time of one process is
what it would take of one core, whatever else this machine does.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.gateway import Gateway, gateway

_WORDS = 200


def _stream(served: Gateway, answers: int, tokens: list[int]) -> None:
    """Ask, one answer after the other, and count tokens."""
    body = {
        "model": "echo",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "word " * _WORDS}],
    }
    with served.client() as http:
        for _ in range(answers):
            with http.stream("POST", "/v1/chat/completions", json=body) as stream:
                data = [line for line in stream.iter_lines() if line.startswith("data: {")]
            tokens.append(json.loads(data[-1][6:])["usage"]["completion_tokens"])


def _round(served: Gateway, clients: int, answers: int) -> tuple[int, float]:
    """Return tokens and seconds of processor time of the gateway."""
    process = psutil.Process(served.gateway_pid())
    tokens: list[int] = []
    before = process.cpu_times()
    threads = [
        threading.Thread(target=_stream, args=(served, answers, tokens)) for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = process.cpu_times()
    return sum(tokens), after.user + after.system - before.user - before.system


def main() -> int:
    """Print the cost for one client and for several."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--answers", type=int, default=40)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="lp-") as folder,
        gateway(Path(folder) / "run", engine=f"--slots {given.clients}") as served,
    ):
        _round(served, 1, 2)
        for clients in (1, given.clients):
            tokens, took_s = _round(served, clients, given.answers)
            cost_ms = 1000 * took_s / tokens
            print(f"{clients} clients: {tokens} tokens, {cost_ms:.3f} ms of one core for each")
    print(f"{os.cpu_count()} cores")
    return 0


if __name__ == "__main__":
    sys.exit(main())
