"""A server that stays: detached, hung up on, found again, run by a number without a name."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psutil
import pytest

from llava_pack.cli.server import detached
from llava_pack.format.errors import ServeError
from llava_pack.serve.run_state import running
from tests.support.checkpoints import make_llava, make_tower
from tests.support.gateway import ROOT, gateway
from tests.support.ports import quiet_ports
from tests.support.sshd import PROGRAM, LoopbackSshd
from tests.support.waiting import until
from tests.target.namespaces import NAMELESS, allowed

_CLI = (sys.executable, "-m", "llava_pack")
_LONG = {
    "model": "echo",
    "stream": True,
    "messages": [{"role": "user", "content": "word " * 4000}],
    "max_tokens": 4000,
}


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:  # short: sockets are made below it
        for name in ("XDG_STATE_HOME", "TMPDIR", "HOME"):
            monkeypatch.setenv(name, folder)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.delenv("LLAVA_PACK_PREFIX", raising=False)
        yield Path(folder)


@pytest.fixture
def options(home: Path) -> list[str]:
    make_tower(home / "clip-tiny")
    model = make_llava(home / "llava-v1-tiny")
    (port,) = quiet_ports(1)
    return ["--model-path", str(model), "--port", str(port), "--precision", "fp32", "--no-web"]


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [*_CLI, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def _over_ssh(home: Path, words: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a command in a session of a real sshd, which is over when this returns."""
    place = home / "sshd"
    place.mkdir()
    names = ("XDG_STATE_HOME", "TMPDIR", "HOME", "PATH", "PYTHONPATH")
    environment = " ".join(f"{name}={os.environ[name]}" for name in names)
    with LoopbackSshd(place, {"SetEnv": environment}) as server:
        login = [part for one in server.options for part in ("-o", one)]
        command = ["ssh", "-p", str(server.port), *login, f"{server.user}@127.0.0.1", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def _status(told: dict[str, str]) -> int:
    headers = {"Authorization": f"Bearer {told['token']}"}
    url = f"{told['url']}/v1/models"
    return httpx.get(url, headers=headers, trust_env=False, timeout=60).status_code


@pytest.mark.engine
@pytest.mark.skipif(PROGRAM is None, reason="no sshd on this machine")
def test_a_detached_server_outlives_ssh_is_found_again_and_keeps_its_token(
    home: Path, options: list[str]
) -> None:
    words = ["serve", "--detach", "--json", *options, "--keep-token"]
    words += ["--reached-as", "ada@bastion,root@gpu.corp:42354"]
    first = _over_ssh(home, [*_CLI, *words])
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    server = psutil.Process(told["pid"])
    assert os.getsid(server.pid) == server.pid
    assert (server.terminal(), _status(told)) == (None, 200)
    assert told["tunnel"].endswith(" -J ada@bastion root@gpu.corp -p 42354")
    assert (told["placeholders"], told["already"]) == ([], False)
    kept = home / "llava-pack" / "run"
    assert [one.stat().st_mode & 0o777 for one in kept.glob("token-*")] == [0o600]

    again = _run(*words)
    assert json.loads(again.stdout) == {**told, "already": True}, again.stderr
    other = _run(*words, "--slots", "1")
    assert other.returncode == 15
    assert "with other options: --slots None, expected 1" in other.stderr
    assert told["token"] not in _run("logs", "-n", "10000").stdout

    family = [server, *server.children(recursive=True)]
    stopped = _run("stop")
    assert f"process {server.pid}, has stopped" in stopped.stderr, stopped.stderr
    assert not any(one.is_running() and one.status() != "zombie" for one in family)
    renewed = json.loads(_run(*words).stdout)
    assert (renewed["token"], renewed["controller"]) == (told["token"], told["controller"])
    assert renewed["pid"] != told["pid"]
    assert _run("keys", "renew-token").returncode == 0
    assert _run("stop").returncode == 0
    (path,) = kept.glob("token-*")
    assert json.loads(path.read_text())["token"] != told["token"]


@pytest.mark.engine
def test_a_start_in_the_background_that_fails_tells_why(home: Path) -> None:
    done = _run("serve", "--detach", "--json", "--model-path", str(home / "none"), "--port", "0")
    assert (done.returncode, json.loads(done.stdout)["error"]) == (13, "checkpoint")
    done = _run("serve", "--detach", "--model-path", str(home), "--socket", str(home / ("x" * 120)))
    assert done.returncode == 2, done.stderr
    assert "a socket's path has at most" in done.stderr


def test_a_start_that_takes_without_end_is_told(home: Path) -> None:
    run = home / "llava-pack" / "run"
    words = ["--state-dir", str(run), "--engine", f"--load-until {home / 'never'}"]
    script = ROOT / "tests" / "support" / "gateway.py"
    with subprocess.Popen([sys.executable, script, *words], stdout=subprocess.PIPE) as process:
        try:
            until(lambda: running([run]))
            with pytest.raises(ServeError, match="is not ready: echo is "):
                detached._ready(detached._Found(process.pid), within_s=5)
        finally:
            process.terminate()
            assert process.wait(timeout=200) == 0


@pytest.mark.engine
def test_a_terminal_that_closes_lets_a_server_drain(home: Path, options: list[str]) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*_CLI, "serve", *options])  # noqa: S606 - no shell is wanted
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        shown = b""
        while b"Press Ctrl-C to stop the server" not in shown:
            shown += screen.read(4096)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert "shutting down" in _run("logs").stdout


def test_a_second_hang_up_does_not_cut_the_first_short(home: Path) -> None:
    wide = "--context 10000 --step-s 0.05"
    with (
        gateway(home / "run", "--drain-s", "800", engine=wide) as served,
        served.client() as http,
        http.stream("POST", "/v1/chat/completions", json=_LONG) as stream,
    ):
        lines = stream.iter_lines()
        assert any("You " in line for line in lines)
        served.process.send_signal(signal.SIGHUP)
        served.process.send_signal(signal.SIGHUP)
        assert all("error" not in next(lines) for _ in range(20))
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(timeout=100) == 128 + signal.SIGHUP


def test_nohup_keeps_its_meaning(home: Path) -> None:
    with gateway(home / "run", wrap=["nohup"]) as served, served.client() as http:
        served.process.send_signal(signal.SIGHUP)
        assert http.get("/readyz").status_code == 200


@pytest.mark.skipif(not allowed(*NAMELESS), reason="no user namespaces here")
def test_a_number_without_a_name_a_home_or_an_environment_has_a_server_told_of(
    home: Path,
) -> None:
    python = [f"PYTHONPATH={ROOT}", f"PATH={os.environ['PATH']}", *_CLI]

    def run(*words: str, state: bool = True) -> "subprocess.CompletedProcess[str]":
        place = [f"XDG_STATE_HOME={home}"] if state else []
        command = [*NAMELESS, *place, *python, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)

    for words in (["status"], ["stop"], ["tunnel"]):
        done = run(*words, state=False)
        assert (done.returncode, "no server is running" in done.stderr) == (15, True), done.stderr
    with contextlib.suppress(OSError):
        Path("/tmp/llava-pack-12345").rmdir()
    wrap = [*NAMELESS, f"PATH={os.environ['PATH']}", f"PYTHONPATH={ROOT}"]
    with gateway(home / "llava-pack" / "run", wrap=wrap) as served:
        told = run("tunnel", "--json")
        assert "USER@" in json.loads(told.stdout)["tunnel"], told.stderr
        assert run("stop").returncode == 0
        assert served.process.wait(timeout=100) == 0
