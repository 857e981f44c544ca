"""`llava-pack serve` as it is typed: on a bare folder with the real engine, and with bad input."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.checkpoints import TinyLlava, make_llava, make_tower
from tests.support.gateway import ROOT

_QUESTION = [{"role": "user", "content": "hi"}]


@dataclass(frozen=True)
class Running:
    """A server that was started by the command line, and what it said."""

    process: subprocess.Popen[str]
    said: dict[str, Any]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 50000 8.8.4.4 2222")
    monkeypatch.delenv("LLAVA_PACK_PREFIX", raising=False)
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_tower(folder / "clip-tiny")
    return make_llava(folder / "llava-v1-tiny")


def _argv(*options: str) -> list[str]:
    return [sys.executable, "-m", "llava_pack", "serve", *options]


@contextmanager
def _serving(environment: dict[str, str], *options: str) -> Iterator[Running]:
    with subprocess.Popen(
        _argv(*options, "--json"), env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield Running(process, json.loads(process.stdout.readline()))
        finally:
            process.terminate()
            process.wait(timeout=200)


def _refused(environment: dict[str, str], *options: str) -> tuple[int, str, str]:
    done = subprocess.run(
        _argv(*options), env=environment, capture_output=True, text=True, timeout=6000, check=False
    )
    assert done.stdout == ""
    return done.returncode, done.stderr, done.stderr.rpartition("hint: ")[2]


@pytest.mark.engine
def test_a_bare_folder_answers_through_the_port_and_the_terminal(
    environment: dict[str, str], model: Path
) -> None:
    options = ["--model-path", str(model), "--port", "0", "--no-web", "--precision", "fp32"]
    with _serving(environment, *options) as server:
        said = server.said
        assert said["models"] == ["llava-v1-tiny"]
        assert said["tunnel"].endswith("@8.8.4.4 -p 2222")
        assert said["page"] == f"http://localhost:{said['port']}/v1"
        headers = {"Authorization": f"Bearer {said['token']}"}
        body = {"model": "llava-v1-tiny", "messages": _QUESTION, "max_tokens": 4}
        url = f"{said['url']}/v1/chat/completions"
        answer = httpx.post(url, json=body, headers=headers, trust_env=False, timeout=600)
        assert answer.json()["usage"]["completion_tokens"] == 4
        asked = ["chat", "--prompt", "hi", "--max-tokens", "4", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "llava_pack", *asked],
            env=environment, capture_output=True, text=True, timeout=600, check=True,
        )  # fmt: skip
        again = subprocess.run(
            [sys.executable, "-m", "llava_pack", "tunnel", "--json"],
            env=environment, capture_output=True, text=True, timeout=600, check=True,
        )  # fmt: skip
        assert json.loads(again.stdout)["tunnel"] == said["tunnel"]
        chatted = json.loads(done.stdout.splitlines()[-1])
        assert chatted["text"] == answer.json()["choices"][0]["message"]["content"]
        supervisor = Path(f"/proc/{server.process.pid}")
        assert (
            int(re.findall(r"VmRSS:\s+(\d+) kB", (supervisor / "status").read_text())[0]) < 60_000
        )
        assert not re.findall("/(?:torch|PIL|numpy)/", (supervisor / "maps").read_text())
    assert server.process.returncode == 0


@pytest.mark.engine
def test_a_tower_that_is_not_there_is_13_and_says_where_it_looked(
    environment: dict[str, str], tmp_path: Path
) -> None:
    folder = make_llava(tmp_path / "alone" / "llava-v1-tiny", TinyLlava(tower_id="someone/clip-x"))
    code, said, _hint = _refused(
        environment, "--model-path", str(folder), "--port", "0", "--no-web", "--precision", "fp32"
    )
    assert code == 13
    assert "clip-x" in said


@pytest.mark.engine
def test_a_taken_port_is_15_before_anything_is_loaded(environment: dict[str, str]) -> None:
    from llava_pack.serve.supervision.listener import listen_on_port

    with listen_on_port("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        code, said, hint = _refused(
            environment, "--model-path", "/no/such/model", "--port", str(port)
        )
    assert code == 15
    assert f"port {port} is taken by " in said
    assert f"process {os.getpid()}" in said
    assert "--port " in hint


@pytest.mark.engine
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--host", "0.0.0.0"], 2, "which requires keys"),
        (["--no-token", "--host", "10.0.0.5"], 2, "which requires keys"),
        (["--load-4bit", "--load-8bit"], 2, "more than one precision"),
        (["--load-4bit", "--precision", "fp32"], 2, "more than one precision"),
        (["--host", "192.0.2.1", "--api-key-file", "KEYS"], 2, "not an address of this machine"),
        (["--socket", "/tmp"], 15, "not a socket"),
        (["--audit-to", "printer"], 2, "expected one of file, journal, syslog, off"),
        (["some-recipe"], 2, "cannot be served together"),
        (["--port", "70000"], 2, "--port"),
        (["--slots", "0"], 2, "--slots"),
    ],
)
def test_bad_options_have_their_exit_codes(
    environment: dict[str, str], tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("k" * 32)
    keys.chmod(0o600)
    given = [str(keys) if option == "KEYS" else option for option in options]
    got, said, _hint = _refused(environment, "--model-path", "/no/such/model", *given)
    assert got == code
    assert message in said


@pytest.mark.engine
def test_with_nothing_installed_it_says_what_to_do(environment: dict[str, str]) -> None:
    code, said, hint = _refused(
        environment, "--prefix", "/no/such/prefix", "--port", "0", "--as-root"
    )
    assert code == 14
    assert "none installed" in said
    assert "install.sh" in hint


def test_without_a_server_there_is_no_tunnel(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llava_pack", "tunnel"],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 15
    assert "hint: llava-pack serve" in done.stderr
