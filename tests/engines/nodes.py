"""One model over two machines with a cable between them: it answers, and again when a node is lost."""

import os
import re
import signal
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest

from tests.engines.installed import KNOWN, Installed, gone, is_known, question, text_of
from tests.support.two_networks import two_machines
from tests.support.waiting import until

_READY_S, _END_S = 900.0, 90.0


def test_two_machines_hold_one_model(installed: Installed) -> None:
    if installed.engine != "vllm":
        pytest.skip("its CPU build holds a model on one machine")
    socket, told = installed.home / "api", installed.home / "nodes.err"
    words = ["serve", "--as-root", "--socket", str(socket), "--no-token", "--nodes", "2"]
    with two_machines() as (here, there), told.open("w") as err:
        command = [*here.wrap, *installed.command(*words, "--address", here.address)]
        head = subprocess.Popen(command, env=installed.environment, stdout=err, stderr=err)
        follower = None
        try:
            line = until(lambda: _join_line(told, head), within_s=_READY_S)
            environ = {**installed.environment, "HOME": str(installed.home / "other")}
            join = [*there.wrap, "sh", "-c", f"exec env {line} --as-root"]
            follower = subprocess.Popen(join, env=environ, stdout=err, stderr=err)
            until(lambda: _answers(socket, head), within_s=_READY_S)
            for pid in _engines(follower.pid):
                os.kill(pid, signal.SIGKILL)
            assert until(lambda: _answers(socket, head), within_s=_READY_S)
            everybody = [*_below(head.pid), *_below(follower.pid)]
        finally:
            for process in filter(None, (head, follower)):
                process.terminate()
                process.wait(timeout=_END_S)
        assert gone(everybody, _END_S) == []


def _join_line(told: Path, head: "subprocess.Popen[bytes]") -> str:
    """Return what is to be run on the other machine, once it is printed."""
    assert head.poll() is None, told.read_text()
    found = re.search(r"LLAVA_PACK_JOIN_KEY=\S+ .* --join .*", told.read_text())
    return found[0] if found else ""


def _answers(socket: Path, head: "subprocess.Popen[bytes]") -> bool:
    """Return whether all known answers are given."""
    assert head.poll() is None
    transport = httpx.HTTPTransport(uds=str(socket))
    try:
        with httpx.Client(base_url="http://localhost", transport=transport, timeout=300) as http:
            for number in range(len(KNOWN)):
                answer = http.post("/v1/chat/completions", json=question(number))
                if answer.status_code != 200:
                    return False
                assert is_known(text_of(answer.json()), number)
    except httpx.TransportError:
        return False
    return True


def _below(pid: int) -> list[int]:
    return [one.pid for one in psutil.Process(pid).children(recursive=True)]


def _engines(pid: int) -> list[int]:
    """Return the processes of the engine below a follower."""
    below = psutil.Process(pid).children(recursive=True)
    return [one.pid for one in below if "--headless" in one.cmdline()]
