"""A run from its start to its end: loading, signals, an engine that dies, nothing left behind."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llava_pack.serve.run_state import running
from llava_pack.serve.supervision.gateway_process import _KEPT
from tests.support.gateway import ROOT, TOKEN, Gateway, gateway
from tests.support.waiting import until

_LONG = {
    "model": "echo",
    "stream": True,
    "messages": [{"role": "user", "content": "word " * 4000}],
    "max_tokens": 4000,
}
_WIDE = "--context 10000 --step-s 0.05"  # the long answer takes minutes: nobody sees its end


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _scratch_folders(parent: Path) -> list[Path]:
    return list(parent.glob("llava-pack-serve-*"))


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:  # short: sockets are made below it
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_who_has_none_of_roots_rights_serves(temporary: Path) -> None:
    """Root passes over modes and owners: what only it can do would be seen by nobody."""
    wrap = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    options = ("--keys", str(temporary / "keys/keys.json"), "--log", str(temporary / "logs/log"))
    with gateway(temporary / "run", *options, wrap=wrap) as served, served.client() as http:
        assert http.get("/readyz").status_code == 200
        assert (temporary / "keys").is_dir()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_and_waits_for_nothing(temporary: Path, number: int) -> None:
    with gateway(temporary / "run", "--drain-s", "800") as served:
        (engine,) = served.engine_pids()
        assert [state.port for state in running([temporary / "run"])] == [served.port]
        served.process.send_signal(number)
        assert served.process.wait(timeout=400) == 0, "nothing runs that it could wait for"
        assert not _alive(engine)
        assert running([temporary / "run"]) == ()
        assert _scratch_folders(temporary) == []


def test_ctrl_c_in_a_terminal_reaches_the_engine_through_serve_only(temporary: Path) -> None:
    with gateway(temporary / "run") as served:
        (engine,) = served.engine_pids()
        assert os.getsid(engine) == engine != os.getsid(served.process.pid)


def test_what_runs_may_end_and_a_second_signal_does_not_wait(temporary: Path) -> None:
    options = ("--drain-s", "800")
    with gateway(temporary / "run", *options, engine=_WIDE) as served, served.client() as http:
        (engine,) = served.engine_pids()
        with http.stream("POST", "/v1/chat/completions", json=_LONG) as stream:
            lines = stream.iter_lines()
            assert any("You " in line for line in lines)
            served.process.send_signal(signal.SIGINT)
            with served.client() as other:
                until(lambda: other.get("/readyz").status_code == 503)
                refused = other.post("/v1/chat/completions", json={**_LONG, "stream": False})
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "not_ready"
            assert any("word" in next(lines) for _ in range(10))
            served.process.send_signal(signal.SIGINT)
            assert served.process.wait(timeout=100) == 130, "the answer takes 200 s"
        assert not _alive(engine)


def test_a_killed_serve_leaves_no_engine_and_no_state(temporary: Path) -> None:
    with gateway(temporary / "run") as served:
        (engine,) = served.engine_pids()
        served.process.kill()
        served.process.wait()
        until(lambda: not _alive(engine))
        assert running([temporary / "run"]) == ()
        assert len(_scratch_folders(temporary)) == 1
    with gateway(temporary / "run"):
        assert len(_scratch_folders(temporary)) == 1


def _cause(served: Gateway, http: httpx.Client) -> str:
    """Return why the engine rests after its end; where it is back already, end it once more.

    The first rest is half a second, which may go by unseen; each one is twice the last.
    """
    echo = http.get("/startupz").json()["models"]["echo"]
    if echo["phase"] == "ready":
        for engine in served.engine_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(engine, signal.SIGKILL)
    return str(echo["detail"]) if echo["phase"] == "restarting" else ""


def test_an_engine_that_dies_is_started_again_and_its_cause_is_shown(temporary: Path) -> None:
    with gateway(temporary / "run", engine=_WIDE) as served, served.client() as http:
        (engine,) = served.engine_pids()
        with http.stream("POST", "/v1/chat/completions", json=_LONG) as stream:
            lines = stream.iter_lines()
            assert any("You " in line for line in lines)
            os.kill(engine, signal.SIGKILL)
            last = [line for line in lines if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "not_ready"
        with served.client() as other:
            assert "SIGKILL" in until(lambda: _cause(served, other))
            assert other.get("/livez").status_code == 200
            until(lambda: other.get("/readyz").status_code == 200)
        assert served.engine_pids() != [engine]


def test_an_engine_that_hangs_is_seen_by_livez_and_not_by_readyz_alone(temporary: Path) -> None:
    with gateway(temporary / "run", engine="--step-s 0.05") as served, served.client() as http:
        (engine,) = served.engine_pids()
        os.kill(engine, signal.SIGSTOP)
        try:
            until(lambda: http.get("/livez").json()["models"]["echo"]["stalled_s"] > 5)
            assert http.get("/livez").status_code == 200
        finally:
            os.kill(engine, signal.SIGCONT)
        until(lambda: http.get("/livez").json()["models"]["echo"]["stalled_s"] == 0)


def test_while_it_loads_it_is_live_and_not_ready(temporary: Path) -> None:
    script = ROOT / "tests" / "support" / "gateway.py"
    argv = [sys.executable, str(script), "--state-dir", str(temporary)]
    argv += ["--engine", f"--load-until {temporary / 'never'}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment) as process:
        try:
            until(lambda: running([temporary]))
            (state,) = running([temporary])
            served = Gateway(process, state.port, temporary)
            with served.client() as http:
                until(lambda: http.get("/startupz").json()["models"]["echo"]["detail"])
                startup = http.get("/startupz").json()["models"]["echo"]
                assert (startup["phase"], startup["detail"]) == ("loading", "weights")
                assert startup["total_bytes"] == 1000
                assert http.get("/livez").status_code == 200
                ready = http.get("/readyz")
                assert (ready.status_code, ready.headers["retry-after"]) == (503, "2")
                assert http.post("/v1/chat/completions", json=_LONG).status_code == 503
                assert [m["id"] for m in http.get("/v1/models").json()["data"]] == ["echo"]
        finally:
            process.terminate()
            assert process.wait(timeout=200) == 0


def test_an_engine_that_cannot_start_ends_the_run_with_its_words(temporary: Path) -> None:
    script = ROOT / "tests" / "support" / "gateway.py"
    argv = [sys.executable, str(script), "--state-dir", str(temporary), "--engine=--nonsense"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(argv, capture_output=True, env=environment, timeout=600, check=False)
    assert ended.returncode == 15
    said = json.loads(ended.stdout)
    assert said["error"] == "serve"
    assert "exited with code 2" in said["message"]
    assert _scratch_folders(temporary) == []


def test_a_unix_socket_serves_its_owner(temporary: Path) -> None:
    path = temporary / "s"
    with gateway(temporary / "run", "--socket", str(path)) as served:
        assert path.stat().st_mode & 0o777 == 0o600
        with served.client() as http:
            assert http.get("/v1/models").status_code == 200
        with httpx.Client(
            base_url="http://localhost", transport=httpx.HTTPTransport(uds=str(path))
        ) as stranger:
            assert stranger.get("/v1/models").status_code == 401


def test_several_models_have_an_engine_each(temporary: Path) -> None:
    with gateway(temporary / "run", "--models", "one", "two") as served, served.client() as http:
        assert len(served.engine_pids()) == 2
        assert http.get("/readyz").json()["models"] == {"one": "ready", "two": "ready"}
        for name in ("one", "two"):
            body = {"model": name, "messages": [{"role": "user", "content": name}]}
            answer = http.post("/v1/chat/completions", json=body).json()
            assert answer["choices"][0]["message"]["content"] == f"You said: {name}"


def test_proxy_variables_do_not_matter(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with gateway(temporary / "run") as served, served.client() as http:
        body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
        assert http.post("/v1/chat/completions", json=body).status_code == 200


def test_the_gateway_knows_no_collector_and_nothing_else_of_the_environment(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The web framework would export every request to what OTEL's variables name."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example")
    monkeypatch.setenv("SOME_PASSWORD", "hunter2")
    monkeypatch.setenv("LANG", "C.UTF-8")
    with gateway(temporary / "run") as served:
        found = Path(f"/proc/{served.gateway_pid()}/environ").read_bytes().split(b"\0")
    names = {text.partition(b"=")[0].decode() for text in found if text}
    ours = {"HF_HUB_OFFLINE", "HOME", "TMPDIR", "TRANSFORMERS_OFFLINE"}
    assert names >= ours | {"LANG", "PATH"}
    assert names <= ours | {*_KEPT}


def test_many_clients_at_once_all_get_their_own_answer(temporary: Path) -> None:
    answers: dict[int, str] = {}

    def ask(served: Gateway, number: int) -> None:
        body = {"model": "echo", "messages": [{"role": "user", "content": f"number {number}"}]}
        with served.client() as http:
            answer = http.post("/v1/chat/completions", json=body).json()
        answers[number] = answer["choices"][0]["message"]["content"]

    with gateway(temporary / "run", engine="--step-s 0.002 --slots 4") as served:
        threads = [threading.Thread(target=ask, args=(served, n)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {n: f"You said: number {n}" for n in range(16)}


def test_slow_senders_do_not_keep_serve_from_ending(temporary: Path) -> None:
    with (
        gateway(temporary / "run") as served,
        socket.create_connection(("127.0.0.1", served.port)) as raw,
    ):
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 1000\r\n"
            b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\n{"
        )
        served.process.terminate()
        assert served.process.wait(timeout=200) == 0
