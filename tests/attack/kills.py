"""Whatever is stopped or killed behind one port, in whatever order, the server answers again.

    python -m pytest -n 0 tests/attack/kills.py        # 100 kills; minutes

A dice that is seeded draws who is hit (the gateway, an engine, what holds one of them, all) and how
(SIGSTOP, SIGKILL), also while the last one is still being replaced. `LLAVA_PACK_SEED` repeats a run. The default run of the
tests draws a few from here (tests/functional/test_serve_kills.py).
"""

import contextlib
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

from tests.support.gateway import Gateway, gateway

_KILLS = 100
_HOW = (signal.SIGKILL, signal.SIGSTOP)
_AGAIN_S = 0.05
_WITHIN_S = 120.0
_OPTIONS = ("--stall-s", "1", "--grace-s", "0.5", "--gateway-s", "2", "--rests-s", "0.1")


def kill_and_ask(folder: Path, seed: int, kills: int) -> Counter[str]:
    """Hit processes of a server until `kills` were hit, and count who; each time it must answer.

    Raises:
        AssertionError: it did not answer again, or a process was left at the end.
    """
    dice = random.Random(seed)
    hit: Counter[str] = Counter()
    options = (*_OPTIONS, "--models", "one", "two")
    with gateway(folder / "run", *options) as served:
        while hit.total() < kills:
            for who, pid in _drawn(dice, served):
                number = dice.choice(_HOW)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                    hit[f"{who} {number.name}"] += 1
            if dice.random() < 0.75:  # else the next one is hit before that is repaired
                for model in ("one", "two"):
                    _answers_again(served, model, seed, hit)
        for model in ("one", "two"):
            _answers_again(served, model, seed, hit)
        left = [served.gateway_pid(), *served.engine_pids(), *served.strand_pids()]
    assert served.process.returncode == 0, f"seed {seed}: it ended with {served.process.returncode}"
    assert not [pid for pid in left if Path(f"/proc/{pid}").exists()], f"seed {seed}: {left}"
    return hit


def _drawn(dice: random.Random, served: Gateway) -> list[tuple[str, int]]:
    """Return who is hit: mostly one of them, sometimes all at once."""
    everybody = [("gateway", pid) for pid in served.gateway_pids()]
    everybody += [("engine", pid) for pid in served.engine_pids()]
    everybody += [("tether", pid) for pid in served.strand_pids()]
    if not everybody or dice.random() < 0.1:
        return everybody
    return [dice.choice(everybody)]


def _answers_again(served: Gateway, model: str, seed: int, hit: Counter[str]) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "still there?"}]}
    until_s = time.monotonic() + _WITHIN_S
    said = ""
    while time.monotonic() < until_s:
        assert served.process.poll() is None, f"seed {seed}: the supervisor ended after {hit}"
        try:
            with served.client() as http:
                answer = http.post("/v1/chat/completions", json=body, timeout=5)
        except httpx.TransportError as error:
            said = repr(error)
        else:
            if answer.status_code == 200:
                text = answer.json()["choices"][0]["message"]["content"]
                assert text == "You said: still there?", f"seed {seed}: {text}"
                return
            said = answer.text
        time.sleep(_AGAIN_S)
    raise AssertionError(f"seed {seed}: {model} does not answer after {hit}: {said}")


def test_a_server_answers_again_after_a_hundred_kills() -> None:
    seed = int(os.environ.get("LLAVA_PACK_SEED") or random.SystemRandom().randrange(10**6))
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:
        hit = kill_and_ask(Path(folder), seed, _KILLS)
    print(f"{hit.total()} kills: {dict(hit)}")
    assert hit.total() >= _KILLS
