"""`serve --replica`, `start --replica`, `stop --replica` as they are typed: what starts, what is refused."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from llava_pack.cli import main
from tests.support.gateway import KEY, ROOT, TOKEN, Gateway, gateway
from tests.support.ports import quiet_ports

_B, _C = "b" * 64, "c" * 64


@dataclass
class Servers:
    """Servers that run, by name, and a file with their key."""

    folder: Path
    running: dict[str, Gateway]

    @property
    def key_file(self) -> Path:
        return self.folder / "key"

    def at(self, name: str) -> str:
        return f"unix:{self.folder}/{name}.sock"


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Run three of one bundle, of which one has another key, and one of another bundle."""
    with tempfile.TemporaryDirectory(prefix="lp-") as short, ExitStack() as stack:
        folder = Path(short)

        def begin(name: str, *options: str) -> tuple[str, Gateway]:
            at = ("--socket", str(folder / f"{name}.sock"), *options)
            return name, stack.enter_context(gateway(folder / name, *at, engine="--slots 4"))

        with ThreadPoolExecutor() as pool:
            begun = [
                pool.submit(begin, "a", "--bundle-id", _B),
                pool.submit(begin, "b", "--bundle-id", _B),
                pool.submit(begin, "other", "--bundle-id", _C),
                pool.submit(begin, "named", "--models", "vicuna", "--bundle-id", _B),
            ]
        found = Servers(folder, dict(one.result() for one in begun))
        found.key_file.write_text(f"# of all of them\n{TOKEN}\n")
        found.key_file.chmod(0o600)
        yield found


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "LLAVA_PACK_PREFIX"}
    return {
        **kept,
        "XDG_STATE_HOME": str(tmp_path),
        "LLAVA_PACK_AS_ROOT": "1",
        "PYTHONPATH": str(ROOT),
    }


def _run(environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "llava_pack", *words]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture
def refused(
    servers: Servers,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str]]:
    """Type `serve` with replicas, and return the exit code and what is said of it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("LLAVA_PACK_AS_ROOT", "1")
    monkeypatch.delenv("LLAVA_PACK_PREFIX", raising=False)
    key = ("--replica-key-file", str(servers.key_file))

    def run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["serve", "--port", "0", *key, *words])
        told = "".join(capsys.readouterr())
        assert TOKEN not in told
        return code, told

    return run


def test_what_cannot_be_served_together_is_told_before_anything_starts(
    servers: Servers, refused: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("another-key-than-theirs")
    wrong.chmod(0o600)
    (free,) = quiet_ports(1)
    a = ("--replica", servers.at("a"))
    rows: list[tuple[tuple[str, ...], int, str]] = [
        ((*a, *a), 2, "given twice"),
        ((*a, "--replica", f"unix:{servers.folder}/./x/../a.sock"), 2, "one server"),
        ((*a, "--replica", f"127.0.0.1:{free}", "--port", str(free)), 2, "this server itself"),
        ((*a, "--replica", f"localhost:{free}", "--port", str(free)), 2, "this server itself"),
        ((*a, "--replica", "https://gpu1"), 2, "expected unix:PATH or HOST:PORT"),
        ((*a, "--slots", "3"), 2, "no model is loaded here"),
        ((*a, "--replica", servers.at("named")), 2, "expected the model echo, got vicuna"),
        ((*a, "--replica", servers.at("other")), 4, f"expected the bundle {_B}, got {_C}"),
        (("--replica", servers.at("nobody")), 15, "no replica can be reached"),
        ((*a, "--replica-key-file", str(wrong)), 15, "refuses the key"),
        ((*a, "--replica-key-file", str(tmp_path / "none")), 2, "cannot be read"),
    ]
    for words, code, said in rows:
        got, told = refused(*words)
        assert got == code, (words, told)
        assert said in told, words


def test_keys_are_read_from_a_private_file_alone(
    servers: Servers, refused: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    a = ("--replica", servers.at("a"))
    for text, mode, said in (
        (TOKEN, 0o644, "open to others: mode 0644"),
        (f"{KEY}\n{TOKEN}\n", 0o600, "expected a key, or an address and its key, in line 2"),
        ("# nothing\n", 0o600, "holds no key"),
    ):
        path = tmp_path / "keys"
        path.write_text(text)
        path.chmod(mode)
        code, told = refused(*a, "--replica-key-file", str(path))
        assert code == 2
        assert said in told
    code, told = refused()
    assert code == 2
    assert "there is no --replica" in told


def test_a_front_without_a_model_is_started_ordered_about_and_ended(
    servers: Servers, environment: dict[str, str], tmp_path: Path
) -> None:
    replicas = ("--replica", servers.at("a"), "--replica", servers.at("gone"))
    key = ("--replica-key-file", str(servers.key_file))
    done = _run(environment, "serve", "--port", "0", *key, *replicas, "--detach", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["models"], told["bundle_id"]) == (["echo"], _B)
    try:
        headers = {"Authorization": f"Bearer {told['token']}"}
        with httpx.Client(base_url=told["url"], headers=headers, trust_env=False) as http:
            body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
            said = http.post("/v1/chat/completions", json=body).json()
            assert said["choices"][0]["message"]["content"] == "You said: hi"
        _is_ordered_about(servers, environment)
        for path in (*Path(f"/proc/{told['pid']}/task").glob("*/cmdline"), *tmp_path.rglob("*")):
            if path.is_file():  # the log, the run state, what stands in `ps`
                assert TOKEN.encode() not in path.read_bytes(), path
    finally:
        ended = _run(environment, "stop")
    assert ended.returncode == 0, ended.stderr


def _is_ordered_about(servers: Servers, environment: dict[str, str]) -> None:
    joined = _run(environment, "start", "--replica", servers.at("b"), "--json")
    assert joined.returncode == 0, joined.stderr
    assert json.loads(joined.stdout)["replicas"] == [
        servers.at(name) for name in ("a", "gone", "b")
    ]
    shown = _run(environment, "status").stdout
    assert f"✓ {servers.at('a')}: fp32 on cpu, 4 slots; 0 running, 0 waiting; " in shown
    assert f"! {servers.at('gone')}: restarting" in shown
    assert TOKEN not in shown
    left = _run(environment, "stop", "--replica", servers.at("gone"))
    assert left.returncode == 0, left.stderr
    assert f"{servers.at('gone')} is asked nothing more" in left.stderr
    refused = _run(environment, "start", "--replica", servers.at("other"))
    assert refused.returncode == 4
    assert _B in refused.stderr
    assert _C in refused.stderr
    for words in (
        ("stop", "--replica", "x:1", "--force"),
        ("start", "--replica", "x:1", "--slots", "2"),
    ):
        odd = _run(environment, *words)
        assert odd.returncode == 2, words
        assert "has no meaning with --replica" in odd.stderr
