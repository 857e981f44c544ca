"""The short form of benchmarks/soak.py: many clients, some of whom leave."""

import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType

from tests.support.gateway import ROOT, gateway


def _soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", ROOT / "benchmarks" / "soak.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_many_clients_leave_no_error_and_no_slot_behind() -> None:
    soak = _soak()
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
    verdict = _soak().verdict
    level = [100, 100, 100, 101]
    assert verdict({"whole": 3}, level, 0) == []
    assert verdict({"failed: x": 2}, level, 0) == ["2 x failed: x"]
    assert verdict({}, [100, 100, 150, 200], 0) == ["the gateway grew from 100 to 200 bytes"]
    assert verdict({}, level, 1) == ["1 slots were not freed"]
