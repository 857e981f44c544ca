"""The process that `serve` starts is not the one that can be made to hang: what it does about that."""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from llava_pack.cli.server import stop as stop_command
from llava_pack.format.errors import ServeError
from llava_pack.serve.run_state import RunState, running
from llava_pack.serve.supervision.control import order, plan_fields
from llava_pack.serve.supervision.plans import LoadOptions, folder_plan
from tests.support.gateway import ROOT, Gateway, gateway
from tests.support.waiting import until

_HI = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
_LONG = {
    "model": "echo",
    "stream": True,
    "messages": [{"role": "user", "content": "word " * 4000}],
    "max_tokens": 4000,
}
_WIDE = "--context 10000 --step-s 0.02"  # the long answer takes minutes: nobody sees its end
_WATCHED = ("--gateway-s", "2", "--rests-s", "0.1")


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:  # short: sockets are made below it
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setenv("XDG_STATE_HOME", folder)
        monkeypatch.delenv("LLAVA_PACK_PREFIX", raising=False)
        yield Path(folder)


@pytest.fixture
def place(temporary: Path) -> Path:
    """Return where `stop` looks for the states of servers."""
    return temporary / "llava-pack" / "run"


def _answer(served: Gateway) -> httpx.Response:
    with served.client() as http:
        return http.post("/v1/chat/completions", json=_HI)


def _restarts(served: Gateway) -> int:
    with served.client() as http:
        text = http.get("/metrics").text
    (line,) = (x for x in text.splitlines() if x.startswith("llava_pack:gateway_restarts_total "))
    return int(line.rpartition(" ")[2])


def _family(served: Gateway) -> list[psutil.Process]:
    """Return gateway, engine, both tethers and decoders; each is known by its start and number."""
    decoders = until(lambda: len(found := served.decoder_pids()) == 2 and found)
    assert decoders
    until(lambda: all(map(_is_bound, decoders)))
    found = psutil.Process(served.process.pid).children(recursive=True)
    assert len(found) == 4 + 2 * 2
    return list(found)


def _is_bound(decoder: int) -> bool:
    """Return whether a decoder has come so far that it ends with its parent."""
    limits = Path(f"/proc/{decoder}/limits").read_text()
    return re.search(r"Max open files +64 +64", limits) is not None


def _gone(family: list[psutil.Process]) -> bool:
    return not [one for one in family if one.is_running() and one.status() != "zombie"]


def _state(place: Path) -> RunState:
    (state,) = running([place])
    return state


def test_a_gateway_that_hangs_is_replaced_and_who_waited_is_answered(temporary: Path) -> None:
    log = temporary / "serve.log"
    with gateway(temporary / "run", *_WATCHED, "--log", str(log)) as served:
        first, engines = served.gateway_pid(), served.engine_pids()
        os.kill(first, signal.SIGSTOP)  # whom it still took in before that is lost with it
        until(lambda: psutil.Process(first).status() == psutil.STATUS_STOPPED)
        try:
            answer = _answer(served)  # asked while it hung, at the same port
        except (httpx.ReadError, httpx.RemoteProtocolError):
            # A stopped one is continued to say where it hung, and took it in.
            answer = _answer(served)
        assert answer.status_code == 200
        assert served.gateway_pid() != first
        assert served.engine_pids() == engines, "no engine was touched"
        assert _restarts(served) == 1
        text = log.read_text()
    assert f"the gateway, process {first}, hung: no heartbeat for" in text
    assert "Current thread 0x" in text, "it says where it hung"


def test_a_gateway_that_is_killed_is_replaced_and_its_requests_leave_their_slots(
    temporary: Path,
) -> None:
    with gateway(temporary / "run", *_WATCHED, engine=_WIDE) as served:
        with served.client() as http, http.stream("POST", "/v1/chat/completions", json=_LONG) as s:
            lines = s.iter_lines()
            assert any("You " in line for line in lines)
            os.kill(served.gateway_pid(), signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                list(lines)
        assert _answer(served).status_code == 200
        with served.client() as http:
            until(lambda: http.get("/livez").json()["models"]["echo"]["running"] == 0)
        assert _restarts(served) == 1


class _Systemd:
    """Counts the signs of life that arrive at the address of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def lives(self) -> int:
        """Return how many came since the last call."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while message := self._socket.recv(4096):
                count += message == b"WATCHDOG=1"
        return count

    def lives_for(self, time_s: float) -> int:
        """Return how many come in a time."""
        ends_s = time.monotonic() + time_s
        count = 0
        while (left_s := ends_s - time.monotonic()) > 0:
            select.select([self._socket], [], [], left_s)
            count += self.lives()
        return count

    def close(self) -> None:
        self._socket.close()


def test_the_watchdog_is_fed_by_the_gateway_too(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = temporary / "serve.log"
    monkeypatch.setenv("NOTIFY_SOCKET", str(temporary / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    options = ("--gateway-s", "2", "--rests-s", "5", "--log", str(log))
    with (
        contextlib.closing(_Systemd(temporary / "notify")) as systemd,
        gateway(temporary / "run", *options) as served,
    ):
        until(systemd.lives)
        os.kill(served.gateway_pid(), signal.SIGSTOP)
        until(lambda: "; restarting in 5 s" in log.read_text())
        systemd.lives()
        assert systemd.lives_for(0.7) == 0, "while there is none that answers"
        until(systemd.lives)


def test_a_forced_stop_is_over_in_five_seconds_whoever_hangs(temporary: Path, place: Path) -> None:
    with gateway(place, "--drain-s", "800", engine=_WIDE) as served:
        family = _family(served)
        with served.client() as http, http.stream("POST", "/v1/chat/completions", json=_LONG) as s:
            assert any("You " in line for line in s.iter_lines())
            for one in family:
                one.suspend()
            began_s = time.monotonic()
            stop_command._end(_state(place), force=True)
            assert time.monotonic() - began_s < 5
        assert served.process.wait(timeout=60) == 128 + signal.SIGTERM
        assert _gone(family)
        assert list(temporary.glob("llava-pack-serve-*")) == []


def test_a_stop_is_over_soon_after_its_time_whoever_hangs(place: Path) -> None:
    """Nobody tells it a second time: by itself it ends, with 0."""
    with gateway(place, "--drain-s", "1", engine=_WIDE) as served:
        family, state = _family(served), _state(place)
        with (
            contextlib.closing(socket.socket(socket.AF_UNIX)) as silent,
            served.client() as http,
            http.stream("POST", "/v1/chat/completions", json=_LONG) as stream,
        ):
            silent.connect(state.control)
            silent.sendall(b'{"do"')
            assert any("You " in line for line in stream.iter_lines())
            for one in family:
                one.suspend()
            stop_command._end(state, force=False)
        assert served.process.wait(timeout=60) == 0
        assert _gone(family)


def test_a_supervisor_that_hangs_is_killed_by_stop_with_all_its_processes(
    temporary: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with gateway(place) as served:
        family, state = _family(served), _state(place)
        for one in (psutil.Process(served.process.pid), *family):
            one.suspend()
        with pytest.raises(ServeError, match="has not responded for"):
            order(
                state.control, {"do": "stop", "model": "echo"}, lambda _line: None, patience_s=0.5
            )
        stop_command._end(state, force=True)
        assert f"! process {state.pid} did not stop: killing it" in capsys.readouterr().err
        until(lambda: _gone(family))
        assert list(temporary.glob("llava-pack-serve-*")) == [], "people's pictures were in it"


def test_without_the_kill_such_a_server_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: a `stop` that only asks."""

    def only_asks(*_: Any, **__: Any) -> Iterator[tuple[float, signal.Signals | None]]:
        yield from ((0.0, signal.SIGTERM), (0.5, signal.SIGTERM), (1.0, None))

    monkeypatch.setattr(stop_command, "_orders", only_asks)
    with gateway(place) as served:
        supervisor = psutil.Process(served.process.pid)
        supervisor.suspend()
        with pytest.raises(ServeError, match="has not exited"):
            stop_command._end(_state(place), force=True)
        assert supervisor.is_running()
        supervisor.resume()


def test_a_killed_supervisor_leaves_no_process_behind_even_one_that_hangs(place: Path) -> None:
    with gateway(place) as served:
        family = _family(served)
        for one in family:
            one.suspend()
        served.process.kill()
        served.process.wait()
        until(lambda: _gone(family))


def test_a_model_that_changes_places_with_itself_lets_its_answers_end(temporary: Path) -> None:
    options = ("--drain-s", "800")
    with gateway(temporary / "run", *options, engine=_WIDE) as served:
        (engine,) = served.engine_pids()
        (state,) = running([temporary / "run"])
        with served.client() as http:
            body = {**_LONG, "max_tokens": 100}
            with http.stream("POST", "/v1/chat/completions", json=body) as stream:
                lines = stream.iter_lines()
                assert any("You " in line for line in lines)
                plan = plan_fields(replace(folder_plan(ROOT, LoadOptions()), name="echo"))
                swapped = order(state.control, {"do": "swap", "model": "echo", "plan": plan}, print)
                assert swapped["models"] == ["echo"]
                assert any("[DONE]" in line for line in lines), "it was answered to its end"
        assert _answer(served).status_code == 200
        assert served.engine_pids() != [engine]


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_while_it_starts_ends_it_with_what_was_just_started(
    temporary: Path, place: Path, times: int
) -> None:
    argv = [sys.executable, str(ROOT / "tests" / "support" / "gateway.py")]
    argv += ["--state-dir", str(place), "--engine", f"--load-until {temporary / 'never'}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=environment) as process:
        until(lambda: running([place]))
        family = psutil.Process(process.pid).children(recursive=True)
        for _ in range(times):
            process.terminate()
        assert process.wait(timeout=60) in {0, 128 + signal.SIGTERM}
    assert _gone(family)
    assert list(temporary.glob("llava-pack-serve-*")) == []
