"""The short forms of benchmarks/soak.py and siege.py: many clients, some leave, some attack."""

import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from tests.support.gateway import ROOT, gateway


def _benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_many_clients_leave_no_error_and_no_slot_behind() -> None:
    soak = _benchmark("soak")
    with (
        tempfile.TemporaryDirectory(prefix="lp-") as folder,
        gateway(Path(folder) / "run", engine="--slots 8 --step-s 0.001") as served,
    ):
        outcome, memory, busy = soak.soak(served, clients=24, seconds=5)
    assert not [what for what in outcome if what.startswith("failed")], outcome
    assert busy == 0
    assert outcome["streamed"] > 0
    assert outcome["left"] > 0
    assert len(memory) > 0


def test_the_verdict_sees_errors_growth_and_slots_that_were_not_freed() -> None:
    verdict = _benchmark("soak").verdict
    level = [100, 100, 100, 101]
    assert verdict({"whole": 3}, level, 0) == []
    assert verdict({"failed: x": 2}, level, 0) == ["2 x failed: x"]
    assert verdict({}, [100, 100, 150, 200], 0) == ["the gateway grew from 100 to 200 bytes"]
    assert verdict({}, level, 1) == ["1 slots were not freed"]


def test_attackers_beside_honest_clients_cost_none_of_them_an_answer() -> None:
    """How long they wait is for benchmarks/siege.py, on a machine that does nothing else."""
    siege = _benchmark("siege")
    with (
        tempfile.TemporaryDirectory(prefix="lp-") as folder,
        gateway(
            Path(folder) / "run", "--web", "--key", siege.MALLORY, engine="--slots 8"
        ) as served,
    ):
        quiet, beside, memory = siege.siege(served, clients=8, quiet_s=2.0, attacked_s=8.0)
    assert set(quiet.outcome) | set(beside.outcome) == {"answered"}
    assert memory[-1] < memory[0] + siege.GROWTH_BYTES


def test_the_verdict_of_a_siege_sees_failures_waiting_and_growth() -> None:
    siege = _benchmark("siege")
    quiet, beside = siege.Phase(), siege.Phase()
    for phase in (quiet, beside):
        phase.outcome["answered"] = 2
    quiet.seconds += [0.1, 0.2]
    beside.seconds += [0.1, 0.9]
    assert siege.verdict(quiet, beside, [1, 2]) == []
    beside.seconds.append(1.1)
    beside.outcome["failed: x"] = 1
    grown = siege.verdict(quiet, beside, [0, 300_000_000])
    assert grown == [
        "1 x failed: x",
        "1 took over 1.00 s, the longest 1.10 s",
        "the gateway grew from 0 to 300 MB",
    ]
