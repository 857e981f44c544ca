"""A server whose processes are killed one by one: it answers again, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import ROOT, Gateway, gateway
from tests.support.marked import marked, parent
from tests.support.waiting import until

_WITHIN_S = 5.0 + 2.0
"""What is told to end has five seconds."""
_DEMO = ROOT / "bundles" / "demo-model"


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder that every process of a server has in its environment."""
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:  # short: sockets are made below it
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def _ready(served: Gateway) -> bool:
    with served.client() as http:
        return http.get("/readyz").status_code == 200


@pytest.mark.parametrize("held", ["gateway", "engine"])
def test_each_that_is_killed_is_replaced_with_its_tether(temporary: Path, held: str) -> None:
    with gateway(temporary / "run", "--rests-s", "0.1") as served:
        for level in range(3):
            _kill(served, held, level, temporary)
        assert len(served.strand_pids()) == 4
    assert marked(str(temporary)) == {}


def _kill(served: Gateway, held: str, level: int, temporary: Path) -> None:
    """Kill a program (0), its inner strand or its outer one, and wait until all are replaced."""
    program = served.gateway_pid() if held == "gateway" else served.engine_pids()[0]
    whole = [program, parent(program), parent(parent(program))]
    os.kill(whole[level], signal.SIGKILL)
    until(lambda: not {*whole} & set(marked(str(temporary))), within_s=_WITHIN_S)
    until(lambda: len(served.engine_pids()) == len(served.gateway_pids()) == 1)
    until(lambda: _ready(served))


@pytest.mark.engine
def test_a_killed_serve_leaves_nothing_of_the_demo_models_engine(temporary: Path) -> None:
    command = [sys.executable, "-m", "llava_pack", "serve", "--port", "0", "--json"]
    command += ["--model-path", str(_DEMO / "llava-v1-demo"), "--precision", "fp32"]
    command += ["--vision-tower", str(_DEMO / "clip-demo")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(temporary)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["models"] == ["llava-v1-demo"]
        running = marked(str(temporary))
        assert any("llava_pack.engine.worker" in line for line in running.values())
        assert any("llava_pack.serve.gateway.process" in line for line in running.values())
        process.kill()
        until(lambda: not marked(str(temporary)), within_s=_WITHIN_S)
