"""A run that is looked after: what hangs, what is full, what is ordered, what systemd hears."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from llava_pack.format.errors import ServeError, UsageError
from llava_pack.serve.control import order, plan_fields
from llava_pack.serve.plans import LoadOptions, folder_plan
from llava_pack.serve.state import running
from tests.support.gateway import ROOT, Gateway, gateway

_HI = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
_LONG = {
    "model": "echo",
    "stream": True,
    "messages": [{"role": "user", "content": "word " * 400}],
    "max_tokens": 400,
}
_WEDGE = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": "wedge"}]}


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:  # short: sockets are made below it
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def _until(condition: Callable[[], object]) -> None:
    """Ask again until it holds; pytest's time-out ends what never does."""
    while not condition():
        time.sleep(0.02)


def _ask(served: Gateway, body: dict[str, Any]) -> httpx.Response:
    with served.client() as http:
        return http.post("/v1/chat/completions", json=body)


def _metric(http: httpx.Client, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(f"no metric {name} {labels}")


def _steps_at_rest(http: httpx.Client) -> int:
    """Return the engine's steps once they have been the same for longer than they are looked at."""
    seen, since_s = -1, time.monotonic()
    while time.monotonic() - since_s < 1.1:
        steps = http.get("/livez").json()["models"]["echo"]["steps"]
        if steps != seen:
            seen, since_s = steps, time.monotonic()
    return seen


def _order(served: Gateway, **wanted: Any) -> dict[str, Any]:
    (state,) = running([served.state_directory])
    return order(state.control, wanted, lambda _line: None)


def _plan(name: str) -> dict[str, Any]:
    return plan_fields(replace(folder_plan(ROOT, LoadOptions()), name=name))


@contextlib.contextmanager
def _streaming(served: Gateway, body: dict[str, Any]) -> Iterator[Iterator[str]]:
    with served.client() as http, http.stream("POST", "/v1/chat/completions", json=body) as stream:
        yield stream.iter_lines()


@pytest.mark.parametrize("how", ["a wedged request", "SIGSTOP"])
def test_an_engine_that_hangs_is_seen_told_and_started_again(temporary: Path, how: str) -> None:
    """One second for a step, half of one for grace: within seconds, and with the place in the log."""
    log = temporary / "serve.log"
    options = ("--stall-s", "1", "--grace-s", "0.5", "--log", str(log))
    with gateway(temporary / "run", *options, engine="--step-s 0.02 --wedge") as served:
        (engine,) = served.engine_pids()
        with _streaming(served, _LONG) as lines, served.client() as http:
            assert "You " in next(lines)
            if how == "SIGSTOP":
                os.kill(engine, signal.SIGSTOP)
            else:
                wedged = threading.Thread(target=_ask, args=(served, _WEDGE))
                wedged.start()
            _until(lambda: http.get("/livez").status_code == 503)
            seen_s = time.monotonic()
            assert http.get("/livez").json()["stalled"] == ["echo"]
            _until(lambda: http.get("/startupz").json()["models"]["echo"]["phase"] == "restarting")
            assert time.monotonic() - seen_s < 30
            detail = http.get("/startupz").json()["models"]["echo"]["detail"]
            assert f"process {engine}, hung: no step for" in detail
            last = [line for line in lines if line][-1]
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "not_ready"
            _until(lambda: http.get("/readyz").status_code == 200)
            assert http.get("/livez").status_code == 200
            assert _metric(http, "llava_pack:engine_restarts_total") == 1
        if how != "SIGSTOP":
            wedged.join()
            assert "Event().wait()" in log.read_text() or "in _admit" in log.read_text()
        assert _ask(served, _HI).status_code == 200


def test_being_busy_is_no_alarm_and_probes_make_no_work(temporary: Path) -> None:
    with (
        gateway(temporary / "run", "--stall-s", "1", engine="--step-s 0.02 --slots 4") as served,
        served.client() as http,
    ):
        threads = [
            threading.Thread(target=_ask, args=(served, {**_LONG, "max_tokens": 60}))
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        codes = set()
        while any(thread.is_alive() for thread in threads):
            codes |= {http.get(path).status_code for path in ("/livez", "/readyz", "/metrics")}
        assert codes == {200}
        before = _steps_at_rest(http)
        for _ in range(50):
            for path in ("/livez", "/readyz", "/startupz", "/metrics", "/health"):
                assert http.get(path).status_code == 200
        assert _steps_at_rest(http) == before
        assert _metric(http, "llava_pack:engine_restarts_total") == 0


def test_a_full_queue_is_503_with_retry_after_and_readyz_says_so(temporary: Path) -> None:
    options = ("--queue", "1")
    with gateway(temporary / "run", *options, engine="--step-s 0.02 --slots 1") as served:
        with _streaming(served, _LONG) as first, _streaming(served, _LONG), served.client() as http:
            assert "You " in next(first)
            refused = _ask(served, _HI)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            assert refused.json()["error"]["code"] == "overloaded"
            ready = http.get("/readyz")
            assert (ready.status_code, ready.json()["models"]["echo"]) == (503, "overloaded")
            assert http.get("/livez").status_code == 200
            assert _metric(http, "llava_pack:requests_refused_total") == 1
        with served.client() as http:
            _until(lambda: http.get("/readyz").status_code == 200)
        assert _ask(served, _HI).status_code == 200


def test_metrics_have_the_names_that_dashboards_know(temporary: Path) -> None:
    with gateway(temporary / "run") as served, served.client() as http:
        assert _ask(served, _HI).status_code == 200
        _until(lambda: _metric(http, "vllm:generation_tokens_total") == 4)
        answer = http.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = {family.name: family for family in text_string_to_metric_families(answer.text)}
        assert {
            "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
            "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds",
            "vllm:iteration_tokens_total", "vllm:mm_cache_hits", "vllm:mm_cache_queries",
            "vllm:prefix_cache_hits", "vllm:prefix_cache_queries", "vllm:request_success",
        } <= families.keys()  # fmt: skip
        assert _metric(http, "vllm:time_to_first_token_seconds_count", model_name="echo") == 1
        assert _metric(http, "vllm:inter_token_latency_seconds_count", engine="0") == 3
        assert _metric(http, "vllm:request_success_total", finished_reason="stop") == 1
        assert _metric(http, "vllm:e2e_request_latency_seconds_count") == 1


def test_it_is_ready_only_after_the_known_answer(temporary: Path) -> None:
    with gateway(temporary / "run", "--proof", "you said") as served, served.client() as http:
        assert http.get("/readyz").status_code == 200
        assert _metric(http, "vllm:generation_tokens_total") == 4
    argv = [
        sys.executable,
        str(ROOT / "tests" / "support" / "gateway.py"),
        "--state-dir",
        temporary,
    ]
    ended = subprocess.run(
        [*argv, "--proof", "something else"], capture_output=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 15
    assert "it does not answer as its bundle says" in json.loads(ended.stdout)["message"]


def test_models_come_go_and_change_places_and_the_others_go_on(temporary: Path) -> None:
    with gateway(temporary / "run", engine="--step-s 0.01") as served, served.client() as http:
        (engine,) = served.engine_pids()
        with _streaming(served, _LONG) as lines:
            assert "You " in next(lines)
            assert _order(served, do="start", plan=_plan("two"))["models"] == ["echo", "two"]
            assert http.get("/readyz").json()["models"] == {"echo": "ready", "two": "ready"}
            assert _ask(served, {**_HI, "model": "two"}).status_code == 200
            swapped = _order(served, do="swap", model="two", plan=_plan("three"))
            assert swapped["models"] == ["echo", "three"]
            assert _ask(served, {**_HI, "model": "two"}).status_code == 404
            assert _ask(served, {**_HI, "model": "three"}).status_code == 200
            assert [state.models for state in running([served.state_directory])] == [
                ("echo", "three")
            ]
            assert _order(served, do="stop", model="three")["models"] == ["echo"]
            assert [m["id"] for m in http.get("/v1/models").json()["data"]] == ["echo"]
            assert any("[DONE]" in line for line in lines)
        assert served.engine_pids() == [engine]


def test_what_cannot_be_started_leaves_everything_as_it_was(temporary: Path) -> None:
    with gateway(temporary / "run", "--models", "echo", "two") as served:
        with pytest.raises(ServeError, match="ended with exit code 2"):
            _order(served, do="start", plan=_plan("broken"))
        with pytest.raises(ServeError, match="ended with exit code 2"):
            _order(served, do="swap", model="two", plan=_plan("broken"))
        assert _ask(served, {**_HI, "model": "two"}).status_code == 200
        with pytest.raises(UsageError, match="served already"):
            _order(served, do="start", plan=_plan("two"))
        with pytest.raises(UsageError, match="no model 'three' is served here"):
            _order(served, do="stop", model="three")
        assert _order(served, do="stop", model="echo")["models"] == ["two"]
        with pytest.raises(UsageError, match="only model"):
            _order(served, do="stop", model="two")
        with pytest.raises(ServeError, match="does not know"):
            _order(served, do="rm -rf")


def test_the_control_socket_is_private_and_no_route_of_the_gateway(temporary: Path) -> None:
    with gateway(temporary / "run") as served, served.client() as http:
        (state,) = running([served.state_directory])
        control = Path(state.control)
        assert (control.stat().st_mode & 0o777, control.parent.stat().st_mode & 0o777) == (
            0o600,
            0o700,
        )
        for path in ("/control", "/start", "/stop", "/v1/models/echo/stop"):
            assert http.post(path, json={"do": "stop", "model": "echo"}).status_code in {404, 405}


def test_the_log_tells_requests_by_id_and_never_what_was_said_or_shown(temporary: Path) -> None:
    log = temporary / "logs" / "serve.log"
    options = ("--log", str(log))
    picture = "data:image/png;base64,aGVsbG8gY2FuYXJ5IHBpY3R1cmU="
    with gateway(temporary / "run", *options, engine="--step-s 0.02") as served:
        said = {"model": "echo", "messages": [{"role": "user", "content": "the-canary sings"}]}
        answer = _ask(served, said)
        shown = [{"type": "image_url", "image_url": {"url": picture}}]
        assert _ask(served, {**_HI, "messages": [{"role": "user", "content": shown}]}).is_error
        assert _ask(served, {**said, "temperature": "canary"}).is_error
        (engine,) = served.engine_pids()
        with _streaming(served, {**_LONG, "messages": said["messages"]}) as lines:
            next(lines)
            os.kill(engine, signal.SIGKILL)
            list(lines)
        with served.client() as http:
            _until(lambda: _metric(http, "llava_pack:engine_restarts_total") == 1)
    text = log.read_text()
    assert answer.headers["x-request-id"] in text
    assert "was ended by SIGKILL" in text
    for secret in ("canary", "sings", "aGVsbG8", "the-token-of-this-start"):
        assert secret not in text
    assert log.stat().st_mode & 0o777 == 0o600


def test_what_runs_is_cut_when_its_time_is_over(temporary: Path) -> None:
    options = ("--drain-s", "0.5")
    with (
        gateway(temporary / "run", *options, engine="--step-s 0.05") as served,
        _streaming(served, _LONG) as lines,
    ):
        assert "You " in next(lines)
        served.process.terminate()
        assert served.process.wait(timeout=15) == 0


class _Systemd:
    """Listens as systemd does, at the address of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.heard: list[str] = []
        self._seen = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while message := self._socket.recv(4096):
                self.heard.append(message.decode())

    def until(self, line: str) -> None:
        """Wait for a line that was not waited for yet."""
        while True:
            while self._seen >= len(self.heard):
                time.sleep(0.02)
            self._seen += 1
            if line in self.heard[self._seen - 1].splitlines():
                return

    def lives(self) -> int:
        return self.heard.count("WATCHDOG=1")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def test_systemd_hears_loading_ready_signs_of_life_and_stopping(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(_Systemd(temporary / "notify")) as systemd:
        monkeypatch.setenv("NOTIFY_SOCKET", str(temporary / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "600000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        options = ("--proof", "you", "--stall-s", "1", "--grace-s", "0.5")
        with gateway(temporary / "run", *options, engine="--load-s 2") as served:
            systemd.until("READY=1")
            before = "\n".join(systemd.heard).partition("READY=1")[0]
            assert "STATUS=echo loading weights" in before
            assert "EXTEND_TIMEOUT_USEC=" in before
            assert "STATUS=echo warming known answers" in before
            systemd.until("WATCHDOG=1")
            (engine,) = served.engine_pids()
            environment = Path(f"/proc/{engine}/environ").read_bytes()
            assert b"NOTIFY_SOCKET" not in environment
            os.kill(engine, signal.SIGSTOP)
            with served.client() as http:
                _until(lambda: http.get("/livez").status_code == 503)
                lives = systemd.lives()
                _until(lambda: http.get("/livez").status_code == 200)
                assert systemd.lives() <= lives + 1
            _until(lambda: systemd.lives() > lives + 1)
            served.process.terminate()
            systemd.until("STOPPING=1")
