"""What a fence costs: CPU seconds of an engine with and without, in turns, for the same answers.

    python benchmarks/fence.py [--rounds 5] [--precision nf4]

CPU seconds and not tokens per second, so that a machine that is busy still tells something.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from llava_pack.engine.port import Message, Request
from llava_pack.engine.process.client import EngineClient
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import ServeError

DEMO = Path(__file__).resolve().parents[1] / "bundles" / "demo-model"
AT_ONCE, AGAIN, TOKENS = 8, 3, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="nf4")
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {"on": [], "off": []}
    for number in range(given.rounds):
        for mode in sorted(found, reverse=bool(number % 2)):
            found[mode].append(asyncio.run(_round(mode, given.precision)))
    for mode, rounds in found.items():
        load, answers = ([one[index] for one in rounds] for index in (0, 1))
        spread = f"{min(answers):.2f} to {max(answers):.2f}"
        print(
            f"--fence {mode}: loading {statistics.median(load):.2f} CPU s, "
            f"answers {statistics.median(answers):.2f} CPU s ({spread})"
        )


async def _round(mode: str, precision: str) -> tuple[float, float]:
    """Return the CPU seconds of loading and of the answers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run" / "engine.sock"
        command = [sys.executable, "-I", "-m", "llava_pack.engine.worker", "--socket", path]
        command += ["--model-dir", DEMO / "llava-v1-demo", "--vision-tower", DEMO / "clip-demo"]
        command += ["--precision", precision, "--device", "cpu", "--fence", mode]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=one_thread) as process:  # noqa: ASYNC220
            async with await _connected(path) as client:
                await client.ready()
                loaded_s = _cpu_s(process.pid)
                for first in range(0, AT_ONCE * AGAIN, AT_ONCE):
                    await asyncio.gather(*(_ask(client, first + n) for n in range(AT_ONCE)))
                answered_s = _cpu_s(process.pid) - loaded_s
            process.terminate()
    return loaded_s, answered_s


async def _connected(path: Path) -> EngineClient:
    while True:
        try:
            return await EngineClient.connect(path)
        except ServeError:
            await asyncio.sleep(0.05)


async def _ask(client: EngineClient, number: int) -> None:
    asked = Request(
        request_id=str(number),
        messages=(Message("user", ("word " * 200,)),),
        sampling=Sampling(max_tokens=TOKENS, temperature=1.0, seed=number),
        conv_mode="plain",
    )
    async for _ in client.generate(asked):
        pass


def _cpu_s(pid: int) -> float:
    """Return the seconds that a process has computed. Source: proc(5), stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
