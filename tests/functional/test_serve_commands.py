"""The commands that look after a server that runs: status, logs, start, swap, stop."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, gateway


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:  # short: sockets are made below it
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setenv("XDG_STATE_HOME", folder)
        monkeypatch.delenv("LLAVA_PACK_PREFIX", raising=False)
        yield Path(folder)


@pytest.fixture
def served(temporary: Path) -> Iterator[Gateway]:
    place = temporary / "llava-pack"
    log = place / "logs" / "serve.log"
    with gateway(place / "run", "--log", str(log), "--bundle-id", "b" * 64) as running:
        yield running


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "llava_pack", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def _told(done: "subprocess.CompletedProcess[str]") -> tuple[str, dict[str, object]]:
    fields = json.loads(done.stdout)
    assert fields.pop("schema")
    return fields.pop("kind"), fields


def test_a_server_is_seen_ordered_about_and_ended(served: Gateway, tmp_path: Path) -> None:
    shown = _run("status").stdout
    assert f"http://127.0.0.1:{served.port}  process {served.process.pid}, since " in shown
    assert "✓ echo: fp32 on cpu, 512 tokens, 2 slots; 0 running, 0 waiting" in shown
    folder = tmp_path / "second"
    started = _run("start", "--model-path", str(folder), "--json")
    assert started.returncode == 0, started.stderr
    assert _told(started) == ("start", {"model": "second", "models": ["echo", "second"]})
    assert "✓ second is ready; served: echo, second" in started.stderr
    assert "second loading" in started.stderr or "second starting" in started.stderr
    broken = _run("swap", "second", "--model-path", str(tmp_path / "broken"))
    assert broken.returncode == 15
    assert "exited with code 2" in broken.stderr
    told = json.loads(_run("status", "--json").stdout)
    (server,) = told["servers"]
    assert {name: model["phase"] for name, model in server["models"].items()} == {
        "echo": "ready",
        "second": "ready",
    }
    stopped = _run("stop", "second", "--json")
    assert "✓ second is stopped; served: echo" in stopped.stderr
    pid = served.process.pid
    assert _told(stopped) == ("stop", {"pid": pid, "model": "second", "models": ["echo"]})
    assert "control: start" in _run("logs", "-n", "1000").stdout
    ended = _run("stop", "--json")
    assert _told(ended) == ("stop", {"pid": pid, "model": None, "models": []})
    assert served.process.wait(timeout=200) == 0
    assert "shutting down" in _run("logs").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["status"], 15, "no server is running on this machine"),
        (["stop"], 15, "no server is running on this machine"),
        (["logs"], 15, "no server has run here yet"),
        (["start", "--model-path", "/m"], 15, "no server is running on this machine"),
        (["start"], 2, "expected one model"),
        (["swap", "a", "b", "--model-path", "/m"], 2, "cannot be served together"),
    ],
)
def test_without_a_server_each_says_what_to_do(
    temporary: Path, arguments: list[str], code: int, message: str
) -> None:
    done = _run(*arguments)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert "hint: " in done.stderr


def test_logs_follow_what_comes_also_into_a_new_file(temporary: Path) -> None:
    path = temporary / "llava-pack" / "logs" / "serve.log"
    path.parent.mkdir(parents=True)
    path.write_text("before\nlast\n")
    command = [sys.executable, "-m", "llava_pack", "logs", "-n", "1", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        try:
            assert following.stdout is not None
            assert following.stdout.readline() == "last\n"
            with path.open("a") as log:
                log.write("one\n")
            assert following.stdout.readline() == "one\n"
            path.rename(path.with_name("serve.log.1"))
            path.write_text("two\n")
            assert following.stdout.readline() == "two\n"
        finally:
            following.send_signal(signal.SIGINT)
        assert following.wait(timeout=200) == 130
