"""An engine over several machines, as vLLM's `mp` executor is one, without torch.

The first rank listens where the others meet it, and answers as the reference engine does once all of
them are there. Each rank has a worker in a session of its own, which watches nobody. A rank that
loses the first one ends; the first one notices a loss only while it works, and ends then.

Run it: `python tests/support/node_engine.py --rank R --count N --head ADDRESS --port PORT
[--socket PATH] [--step-s S]`.
"""

import argparse
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from llava_pack.engine.port import Engine, Event
from llava_pack.engine.process import process
from llava_pack.format.progress import Progress
from tests.support.engine import EchoEngine

_AGAIN_S = 0.05
_MEET_S = 30.0


class SpreadEngine(EchoEngine):
    """Answers as long as the others are there."""

    def __init__(self, others: Sequence[socket.socket], step_s: float) -> None:
        super().__init__(context_tokens=100_000, step_s=step_s)
        self._others = others

    def step(self) -> Sequence[Event]:
        if select.select(self._others, [], [], 0)[0]:
            print("a worker of another rank is gone", file=sys.stderr, flush=True)
            os._exit(1)
        return super().step()


def _met(head: str, port: int, count: int) -> list[socket.socket]:
    """Return connections to all other ranks, once they are there."""
    with socket.create_server((head, port)) as listening:
        listening.settimeout(_MEET_S)
        return [listening.accept()[0] for _ in range(1, count)]


def _joined(head: str, port: int) -> socket.socket:
    until_s = time.monotonic() + _MEET_S
    while True:
        try:
            return socket.create_connection((head, port), timeout=_MEET_S)
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(_AGAIN_S)


def main() -> int:
    """Be one rank until told to end, or until the engine is no longer whole."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--head", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--socket", type=Path)
    parser.add_argument("--step-s", type=float, default=0.0)
    given = parser.parse_args()
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    if given.rank:
        first = _joined(given.head, given.port)
        first.settimeout(None)
        with suppress(OSError):
            first.recv(1)
        print("the first rank is gone", file=sys.stderr, flush=True)
        return 1

    def load(_progress: Progress) -> Engine:
        return SpreadEngine(_met(given.head, given.port, given.count), given.step_s)

    return process.run(load, given.socket, drain_s=0.2, fence=lambda: None)


if __name__ == "__main__":
    sys.exit(main())
