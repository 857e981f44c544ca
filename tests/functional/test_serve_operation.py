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
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from llava_pack.format.errors import ServeError, UsageError
from llava_pack.serve.run_state import running
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
_WEDGE = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": "wedge"}]}


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:  # short: sockets are made below it
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def _ask(served: Gateway, body: dict[str, Any]) -> httpx.Response:
    with served.client() as http:
        return http.post("/v1/chat/completions", json=body)


def _metric(http: httpx.Client, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(f"no metric {name} {labels}")


def _steps(http: httpx.Client, tokens: int) -> int:
    """Return the engine's steps once it has told of so many tokens."""
    until(lambda: _metric(http, "vllm:generation_tokens_total") >= tokens)
    return int(http.get("/livez").json()["models"]["echo"]["steps"])


def _order(served: Gateway, **wanted: Any) -> dict[str, Any]:
    (state,) = running([served.state_directory])
    return order(state.control, wanted, lambda _line: None)


def _plan(name: str) -> dict[str, Any]:
    return plan_fields(replace(folder_plan(ROOT, LoadOptions()), name=name))


def _stalled(http: httpx.Client) -> httpx.Response | None:
    answer = http.get("/livez")
    return answer if answer.status_code == 503 else None


@contextlib.contextmanager
def _streaming(served: Gateway, body: dict[str, Any]) -> Iterator[Iterator[str]]:
    with served.client() as http, http.stream("POST", "/v1/chat/completions", json=body) as stream:
        yield stream.iter_lines()


@pytest.mark.parametrize("how", ["a wedged request", "SIGSTOP"])
def test_an_engine_that_hangs_is_seen_told_and_started_again(temporary: Path, how: str) -> None:
    """Two seconds for a step, two of grace, and the place where it hung is in the log."""
    log = temporary / "serve.log"
    options = ("--stall-s", "2", "--grace-s", "2", "--log", str(log))
    with gateway(temporary / "run", *options, engine=f"{_WIDE} --wedge") as served:
        (engine,) = served.engine_pids()
        with _streaming(served, _LONG) as lines, served.client() as http:
            assert any("You " in line for line in lines)
            if how == "SIGSTOP":
                os.kill(engine, signal.SIGSTOP)
            else:
                wedged = threading.Thread(target=_ask, args=(served, _WEDGE))
                wedged.start()
            seen = until(lambda: _stalled(http))
            assert seen.json()["stalled"] == ["echo"]
            until(lambda: "; restarting in" in log.read_text())
            assert f"process {engine}, hung: no step for" in log.read_text()
            last = [line for line in lines if line][-1]
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "not_ready"
            until(lambda: http.get("/readyz").status_code == 200)
            assert http.get("/livez").status_code == 200
            assert _metric(http, "llava_pack:engine_restarts_total") == 1
        if how != "SIGSTOP":
            wedged.join()
            assert "Event().wait()" in log.read_text() or "in _admit" in log.read_text()
        assert _ask(served, _HI).status_code == 200


def test_being_busy_is_no_alarm_and_probes_make_no_work(temporary: Path) -> None:
    with (
        gateway(temporary / "run", "--stall-s", "3", engine="--step-s 0.02 --slots 4") as served,
        served.client() as http,
    ):
        said = {**_HI, "messages": [{"role": "user", "content": "word " * 100}]}
        threads = [
            threading.Thread(target=_ask, args=(served, {**said, "max_tokens": 80}))
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        codes = set()
        while any(thread.is_alive() for thread in threads):
            codes |= {http.get(path).status_code for path in ("/livez", "/readyz", "/metrics")}
        assert codes == {200}
        before = _steps(http, 12 * 80)
        aliases = ("/health", "/v1/health/live", "/v1/health/ready")
        for _ in range(50):
            for path in ("/livez", "/readyz", "/startupz", "/metrics", *aliases):
                assert http.get(path).status_code == 200
        assert _ask(served, _HI).status_code == 200
        assert _steps(http, 12 * 80 + 4) == before + 4
        assert _metric(http, "llava_pack:engine_restarts_total") == 0


def test_a_full_queue_is_503_with_retry_after_and_readyz_says_so(temporary: Path) -> None:
    options = ("--queue", "1")
    with gateway(temporary / "run", *options, engine=f"{_WIDE} --slots 1") as served:
        with _streaming(served, _LONG) as first, _streaming(served, _LONG), served.client() as http:
            assert any("You " in line for line in first)
            refused = _ask(served, _HI)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            assert refused.json()["error"]["code"] == "overloaded"
            ready = http.get("/readyz")
            assert (ready.status_code, ready.json()["models"]["echo"]) == (503, "overloaded")
            assert http.get("/livez").status_code == 200
            assert _metric(http, "llava_pack:requests_refused_total") == 1
        with served.client() as http:
            until(lambda: http.get("/readyz").status_code == 200)
        assert _ask(served, _HI).status_code == 200


def test_metrics_have_the_names_that_dashboards_know(temporary: Path) -> None:
    with gateway(temporary / "run") as served, served.client() as http:
        assert _ask(served, _HI).status_code == 200
        until(lambda: _metric(http, "vllm:generation_tokens_total") == 4)
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
        [*argv, "--proof", "something else"], capture_output=True, timeout=600, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 15
    assert (
        "its answer does not match the bundle's known answer" in json.loads(ended.stdout)["message"]
    )


def test_models_come_go_and_change_places_and_the_others_go_on(temporary: Path) -> None:
    with gateway(temporary / "run", engine=_WIDE) as served, served.client() as http:
        (engine,) = served.engine_pids()
        with _streaming(served, {**_LONG, "max_tokens": 200}) as lines:
            assert any("You " in line for line in lines)
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
        with pytest.raises(ServeError, match="exited with code 2"):
            _order(served, do="start", plan=_plan("broken"))
        with pytest.raises(ServeError, match="exited with code 2"):
            _order(served, do="swap", model="two", plan=_plan("broken"))
        assert _ask(served, {**_HI, "model": "two"}).status_code == 200
        with pytest.raises(UsageError, match="already being served"):
            _order(served, do="start", plan=_plan("two"))
        with pytest.raises(UsageError, match="no model 'three' is served here"):
            _order(served, do="stop", model="three")
        assert _order(served, do="stop", model="echo")["models"] == ["two"]
        with pytest.raises(UsageError, match="only model"):
            _order(served, do="stop", model="two")
        with pytest.raises(ServeError, match="does not support"):
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
    with gateway(temporary / "run", *options, engine=_WIDE) as served:
        said = {"model": "echo", "messages": [{"role": "user", "content": "the-canary sings"}]}
        answer = _ask(served, said)
        shown = [{"type": "image_url", "image_url": {"url": picture}}]
        assert _ask(served, {**_HI, "messages": [{"role": "user", "content": shown}]}).is_error
        assert _ask(served, {**said, "temperature": "canary"}).is_error
        (engine,) = served.engine_pids()
        sung = [{"role": "user", "content": "the-canary sings " * 2000}]
        with _streaming(served, {**_LONG, "messages": sung}) as lines:
            next(lines)
            os.kill(engine, signal.SIGKILL)
            list(lines)
        with served.client() as http:
            until(lambda: _metric(http, "llava_pack:engine_restarts_total") == 1)
    text = log.read_text()
    assert answer.headers["x-request-id"] in text
    assert "was killed by SIGKILL" in text
    for secret in ("canary", "sings", "aGVsbG8", "the-token-of-this-start"):
        assert secret not in text
    assert log.stat().st_mode & 0o777 == 0o600


def test_what_runs_is_cut_when_its_time_is_over(temporary: Path) -> None:
    options = ("--drain-s", "0.5")
    with (
        gateway(temporary / "run", *options, engine=_WIDE) as served,
        _streaming(served, _LONG) as lines,
    ):
        assert any("You " in line for line in lines)
        served.process.terminate()
        assert served.process.wait(timeout=60) == 0, "the answer takes 80 s"


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
        options = ("--proof", "you", "--stall-s", "2", "--grace-s", "2")
        loaded = temporary / "loaded"

        def load() -> None:
            until(lambda: "STATUS=echo loading weights" in "\n".join(systemd.heard))
            loaded.touch()

        threading.Thread(target=load, daemon=True).start()
        with gateway(temporary / "run", *options, engine=f"--load-until {loaded}") as served:
            systemd.until("READY=1")
            before = "\n".join(systemd.heard).partition("READY=1")[0]
            assert "EXTEND_TIMEOUT_USEC=" in before
            assert "STATUS=echo warming known answers" in before
            systemd.until("WATCHDOG=1")
            (engine,) = served.engine_pids()
            environment = Path(f"/proc/{engine}/environ").read_bytes()
            assert b"NOTIFY_SOCKET" not in environment
            os.kill(engine, signal.SIGSTOP)
            with served.client() as http:
                until(lambda: _stalled(http))
                lives = during = heard = systemd.lives()
                while _stalled(http):
                    during, heard = heard, systemd.lives()
                assert during <= lives + 1
            until(lambda: systemd.lives() > lives + 1)
            served.process.terminate()
            systemd.until("STOPPING=1")
