"""Whichever process of an engine's tree is killed, it answers again, and nothing is left at the end."""

import os
import signal

import psutil
import pytest

from tests.engines.installed import Installed, Served, gone, left_in_memory, serving

_END_S = 60.0


def test_each_process_in_turn_may_be_killed(installed: Installed) -> None:
    """By command line: after each kill the tree has other numbers."""
    before = left_in_memory()
    with serving(installed) as served:
        served.answers_again()
        for role in sorted(set(_roles(served).values())):
            for at in (0, -1):  # of the two strands of a tether, each alone
                pids = sorted(pid for pid, one in _roles(served).items() if one == role)
                print(f"kill -9 {pids[at]}, one of {len(pids)} x {role}", flush=True)
                os.kill(pids[at], signal.SIGKILL)
                served.answers_again()
                if len(pids) == 1:
                    break
        left = list(served.tree())
    assert gone(left, _END_S) == []
    assert left_in_memory() == before


def test_nothing_outlives_a_server_that_is_killed(installed: Installed) -> None:
    before = left_in_memory()
    with serving(installed) as served:
        served.answers_again()
        tree = list(served.tree())
        served.process.kill()
    assert gone(tree, _END_S) == []
    assert left_in_memory() == before


def test_stop_leaves_nothing(installed: Installed) -> None:
    before, files = left_in_memory(), _files(installed)
    with serving(installed) as served:
        served.answers_again()
        tree = list(served.tree())
        installed.told("stop")
        assert gone(tree, _END_S) == []
    assert left_in_memory() == before
    assert _files(installed) - files == set()


def _roles(served: Served) -> dict[int, str]:
    """Return what each process below the server is, in words that do not change."""
    roles = {}
    for pid, line in served.tree().items():
        if pid != served.process.pid:
            roles[pid] = _role(pid, line)
    return roles


def _role(pid: int, line: str) -> str:
    for word in ("resource_tracker", "tether.py", "relay", "decoder", "gateway"):
        if word in line:
            return word
    name = psutil.Process(pid).name()
    return name if name.startswith(("VLLM", "sglang")) else "engine"


def _files(installed: Installed) -> set[str]:
    """Return what lies in the temporary folder."""
    return {str(path) for path in (installed.home / "tmp").rglob("*")}


@pytest.fixture(autouse=True)
def nothing_runs() -> None:
    assert not [one for one in psutil.process_iter(["name"]) if "VLLM" in one.info["name"]]
