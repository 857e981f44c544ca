"""Honest people beside attackers: nobody waits long, and the gateway does not grow.

    python benchmarks/siege.py [--clients 64] [--minutes 10] [--quiet-minutes 1]

The engine is the reference one behind the port. First only honest clients ask, each with a pause
after every answer; then the same go on beside a second process with attackers of every kind that
holds a key of its own: bodies that explode when parsed, pictures that explode when decoded, forty
requests at once, strangers without a key, connections that send a byte now and then, hostile page
events. Loopback only, every loop is paced. Exit code 1 where an honest request failed or took more
than five times the longest of the quiet time, or the gateway grew by more than 200 MB.
"""

import argparse
import base64
import contextlib
import io
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.soak import body
from tests.support.gateway import Gateway, gateway

_SLOWER = 5
GROWTH_BYTES = 200_000_000
_PAUSE_S = (2.0, 6.0)
MALLORY = "the-key-of-somebody-who-attacks"
_ENGINE = "--slots 8 --step-s 0.005"


@dataclass
class Phase:
    """What honest clients saw in a part of the run."""

    seconds: list[float] = field(default_factory=list)
    outcome: Counter[str] = field(default_factory=Counter)


def honest(served: Gateway, seed: int, phases: Sequence[tuple[float, Phase]]) -> None:
    """Ask, read the answer, think; until the last phase is over.

    Args:
        served: who is asked.
        seed: of what is asked, and how long is thought.
        phases: each with its end on the monotonic clock.
    """
    dice = random.Random(seed)
    with served.client() as http:
        time.sleep(dice.uniform(0, _PAUSE_S[1]))
        for until_s, phase in phases:
            while time.monotonic() < until_s:
                began_s = time.monotonic()
                try:
                    answer = http.post("/v1/chat/completions", json={**body(dice), "stream": False})
                    said = "answered" if answer.status_code == 200 else f"failed: {answer.text}"
                except httpx.HTTPError as error:
                    said = f"failed: {error!r}"
                phase.outcome[said[:200]] += 1
                phase.seconds.append(time.monotonic() - began_s)
                time.sleep(dice.uniform(*_PAUSE_S))


def _json_bombs(http: httpx.Client, dice: random.Random) -> None:
    count = dice.randrange(1_000, 350_000)
    bombs = (
        b'{"model":"echo","messages":[' + b"{}," * count + b"{}]}",
        b"[" + b"[]," * count + b"[]]",
        b"[" * count + b"]" * count,
        b'{"model":"echo","messages":' + b'{"a":' * count + b"1" + b"}" * count + b"}",
    )
    headers = {"content-type": "application/json"}
    http.post("/v1/chat/completions", content=dice.choice(bombs), headers=headers)


def _png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("1", (width, height)).save(out, "PNG")
    return out.getvalue()


def _many_scans(scans: int) -> bytes:
    """Return a progressive JPEG whose last scan comes again and again."""
    out = io.BytesIO()
    Image.effect_noise((1600, 1600), 60).convert("RGB").save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def _picture_bombs(http: httpx.Client, dice: random.Random) -> None:
    bomb = dice.choice([_png(13_000, 13_000), _png(5_000, 5_000), _png(10_000, 1), _many_scans(40)])
    url = f"data:image/png;base64,{base64.b64encode(bomb).decode()}"
    part = {"type": "image_url", "image_url": {"url": url}}
    content = [part] * dice.choice([1, 4, 16])
    asked = {"model": "echo", "messages": [{"role": "user", "content": content}]}
    http.post("/v1/chat/completions", json=asked)


def _flood(http: httpx.Client, dice: random.Random) -> None:
    words = "word " * dice.randrange(100, 300)
    asked = {"model": "echo", "messages": [{"role": "user", "content": words}]}

    def one() -> None:
        with contextlib.suppress(httpx.HTTPError):
            http.post("/v1/chat/completions", json=asked)

    threads = [threading.Thread(target=one) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _strangers(http: httpx.Client, dice: random.Random) -> None:
    for _ in range(20):
        path = "/" + "x" * dice.randrange(2_000)
        http.get(path, headers={"authorization": f"Bearer {dice.randbytes(16).hex()}"})


def _dribble(http: httpx.Client, dice: random.Random) -> None:
    """Open connections that send a byte now and then, and let them go."""
    host, port = http.base_url.host, http.base_url.port
    held = []
    for _ in range(dice.randrange(20, 80)):
        connection = socket.create_connection((host, port or 80), timeout=5)
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX: ")
        held.append(connection)
    for _ in range(10):
        time.sleep(1)
        for connection in held:
            with contextlib.suppress(OSError):
                connection.sendall(b"x")
    for connection in held:
        connection.close()


def _leave(http: httpx.Client, dice: random.Random) -> None:
    for _ in range(10):
        with http.stream("POST", "/v1/chat/completions", json={**body(dice), "stream": True}):
            pass


Attack = Callable[[httpx.Client, random.Random], None]
_ATTACKS: tuple[tuple[Attack, float], ...] = (
    (_json_bombs, 1.0),
    (_picture_bombs, 2.0),
    (_flood, 2.0),
    (_strangers, 0.5),
    (_dribble, 5.0),
    (_leave, 2.0),
)
"""Each with the pause after it, in seconds."""


def attack(url: str, seconds: float) -> None:
    """Do everything in the table until the time is over; what comes of it does not matter."""
    until_s = time.monotonic() + seconds

    def on(what: Attack, pause_s: float, seed: int) -> None:
        dice = random.Random(seed)
        headers = {"authorization": f"Bearer {MALLORY}"}
        limits = httpx.Limits(max_connections=50)
        with httpx.Client(
            base_url=url, headers=headers, trust_env=False, timeout=60, limits=limits
        ) as http:
            while time.monotonic() < until_s:
                with contextlib.suppress(httpx.HTTPError, OSError):
                    what(http, dice)
                time.sleep(pause_s)

    threads = [
        threading.Thread(target=on, args=(what, pause_s, seed), daemon=True)
        for seed, (what, pause_s) in enumerate(_ATTACKS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def siege(
    served: Gateway, clients: int, quiet_s: float, attacked_s: float
) -> tuple[Phase, Phase, list[int]]:
    """Return what honest clients saw before and beside the attack, and the gateway's memory."""
    quiet, beside = Phase(), Phase()
    began_s = time.monotonic()
    phases = [(began_s + quiet_s, quiet), (began_s + quiet_s + attacked_s, beside)]
    threads = [
        threading.Thread(target=honest, args=(served, number, phases)) for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    memory: list[int] = []
    attackers: subprocess.Popen[bytes] | None = None
    while (now_s := time.monotonic()) < phases[1][0]:
        memory.append(psutil.Process(served.gateway_pid()).memory_info().rss)
        if attackers is None and now_s >= phases[0][0]:
            argv = [sys.executable, __file__, "--attack", served.url]
            attackers = subprocess.Popen([*argv, "--minutes", str((phases[1][0] - now_s) / 60)])
        time.sleep(0.5)
    for thread in threads:
        thread.join()
    if attackers is not None:
        attackers.terminate()
        attackers.wait()
    return quiet, beside, memory


def verdict(quiet: Phase, beside: Phase, memory: Sequence[int]) -> list[str]:
    """Return what is wrong."""
    outcome = quiet.outcome + beside.outcome
    wrong = [f"{count} x {what}" for what, count in outcome.items() if what != "answered"]
    bound_s = _SLOWER * max(quiet.seconds)
    slow = [seconds for seconds in beside.seconds if seconds > bound_s]
    if slow:
        wrong.append(f"{len(slow)} took over {bound_s:.2f} s, the longest {max(slow):.2f} s")
    if memory[-1] > memory[0] + GROWTH_BYTES:
        wrong.append(f"the gateway grew from {memory[0] / 1e6:.0f} to {memory[-1] / 1e6:.0f} MB")
    return wrong


def main() -> int:
    """Lay siege, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--quiet-minutes", type=float, default=1)
    parser.add_argument("--attack", help="be the attackers of the server at this address")
    given = parser.parse_args()
    if given.attack:
        attack(given.attack, 60 * given.minutes)
        return 0
    with (
        tempfile.TemporaryDirectory(prefix="lp-") as folder,
        gateway(Path(folder) / "run", "--web", "--key", MALLORY, engine=_ENGINE) as served,
    ):
        times = 60 * given.quiet_minutes, 60 * given.minutes
        quiet, beside, memory = siege(served, given.clients, *times)
    for name, phase in (("quiet", quiet), ("beside attackers", beside)):
        seconds = sorted(phase.seconds)
        told = ", ".join(f"{count} {what}" for what, count in phase.outcome.items())
        median, most = seconds[len(seconds) // 2], seconds[-1]
        print(f"{name}: {told}; median {median:.2f} s, longest {most:.2f} s")
    megabytes = [round(value / 1e6) for value in (memory[0], max(memory), memory[-1])]
    print(f"memory of the gateway at the start, at most, at the end: {megabytes} MB")
    print(*(wrong := verdict(quiet, beside, memory)), sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
