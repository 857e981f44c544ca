"""`llava-pack tunnel USER@HOST` through a real sshd on loopback: what works, and which hop fails."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from llava_pack.client.tunnel_diagnosis import blame_answer, blame_ssh
from tests.support.gateway import TOKEN, Gateway, gateway
from tests.support.ports import quiet_ports
from tests.support.sshd import PROGRAM, LoopbackSshd

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no sshd on this machine")
_BUNDLE = "ab" * 32


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lp-") as name:  # short: sockets are made below it
        yield Path(name)


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Gateway]:
    with gateway(folder / "llava-pack" / "run", "--bundle-id", _BUNDLE) as running:
        yield running


@contextmanager
def _sshd(folder: Path, name: str, **settings: str) -> Iterator[LoopbackSshd]:
    """Run an sshd whose sessions find this llava-pack, and the servers of this test."""
    place = folder / name
    place.mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = f"PATH={path} XDG_STATE_HOME={folder} HOME={folder}"
    with LoopbackSshd(place, {"SetEnv": environment, **settings}) as server:
        yield server


@pytest.fixture(scope="module")
def sshd(folder: Path) -> Iterator[LoopbackSshd]:
    with _sshd(folder, "open") as server:
        yield server


@pytest.fixture(scope="module")
def closed(folder: Path) -> Iterator[LoopbackSshd]:
    with _sshd(folder, "closed", AllowTcpForwarding="no") as server:
        yield server


def _command(sshd: LoopbackSshd, *arguments: str) -> list[str]:
    command = [sys.executable, "-m", "llava_pack", "tunnel", f"{sshd.user}@127.0.0.1"]
    command += ["-p", str(sshd.port), *(part for one in sshd.options for part in ("-o", one))]
    return [*command, *arguments]


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def _taken() -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening


def test_it_asks_there_opens_looks_and_forwards_until_it_is_closed(
    served: Gateway, sshd: LoopbackSshd
) -> None:
    command = _command(sshd, "--expect", _BUNDLE[:12])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            page = process.stdout.readline().strip()
            url, _, token = page.partition("/#token=")
            assert token == TOKEN
            assert url != served.url, "the server's own port is taken here: another is found"
            answer = httpx.get(
                f"{url}/v1/models", headers={"Authorization": f"Bearer {token}"}, trust_env=False
            )
            assert [model["id"] for model in answer.json()["data"]] == ["echo"]
        finally:
            process.terminate()
        assert process.wait(timeout=200) == 143


def test_a_socket_is_forwarded_too(folder: Path, sshd: LoopbackSshd) -> None:
    path, tokens = folder / "s", folder / "token"
    tokens.write_text(TOKEN)
    with gateway(folder / "other", "--socket", str(path)):
        done = _run(_command(sshd, "--socket", str(path), "--token-file", str(tokens), "--check"))
    assert done.returncode == 0, done.stderr
    assert "echo is ready" in done.stderr


@pytest.mark.parametrize(
    ("options", "hop", "hint"),
    [
        (["--local-port", "TAKEN"], "this laptop's port", "--local-port"),
        (
            ["--expect", "cd" * 6],
            "server: expected the bundle cdcdcdcdcdcd, got abababababab",
            "several servers",
        ),
        (
            ["--port", "PORT"],
            "server: another llava-pack server responds there",
            "llava-pack tunnel",
        ),
        (
            ["--port", "UNUSED", "--local-port", "FREE"],
            "address on the server: nothing listens",
            "llava-pack status",
        ),
        (
            ["--port", "TAKEN", "--local-port", "FREE"],
            "address on the server: the tunnel is open",
            "llava-pack status",
        ),
        (["-o", "HostName=no-such-host.invalid"], "ssh login: the server's name", "--jump"),
        (["-p", "1"], "ssh login: no sshd responds", "its ssh port, -p"),
        (
            ["-o", "PreferredAuthentications=none"],
            "ssh login: the server rejected the login",
            "try plain ssh",
        ),
    ],
)
def test_the_hop_that_fails_is_named(
    served: Gateway, sshd: LoopbackSshd, options: list[str], hop: str, hint: str
) -> None:
    unused, free = quiet_ports(2)
    with _taken() as taken:
        values = {"TAKEN": taken.getsockname()[1], "UNUSED": unused}
        values |= {"FREE": free, "PORT": served.port}
        given = [str(values.get(option, option)) for option in options]
        done = _run(_command(sshd, "--check", *given))
    assert done.returncode == 9, done.stderr
    assert f"hop: {hop}" in done.stderr
    assert hint in done.stderr.partition("hint: ")[2]


def test_an_sshd_that_forbids_forwarding_is_named(served: Gateway, closed: LoopbackSshd) -> None:
    done = _run(_command(closed, "--check"))
    assert done.returncode == 9
    assert "hop: sshd's policy: sshd on the server forbids forwarding" in done.stderr
    assert "AllowTcpForwarding" in done.stderr


def test_where_nothing_is_served_it_says_so(folder: Path) -> None:
    empty = folder / "empty"
    empty.mkdir()
    with _sshd(empty, "sshd") as server:
        done = _run(_command(server, "--check"))
    assert done.returncode == 15
    assert "no server is running there" in done.stderr
    assert "llava-pack serve" in done.stderr


def test_what_nobody_knows_is_shown_as_ssh_said_it() -> None:
    assert blame_ssh("first\nkex_exchange_identification: banner line\n").why.endswith(
        "banner line"
    )
    assert blame_ssh("").why == "ssh exited: it printed nothing"


@pytest.mark.parametrize(
    ("status", "body", "expected", "why"),
    [
        (200, {"bundle_id": "abc"}, "ab", None),
        (503, {"bundle_id": None}, None, None),
        (200, {"bundle_id": None}, "ab", "got a plain folder"),
        (401, None, None, "rejects this token"),
        (404, {"x": 1}, None, "other than llava-pack"),
        (200, None, None, "other than llava-pack"),
    ],
)
def test_the_server_is_the_one_or_not(status: int, body: object, expected: str, why: str) -> None:
    blame = blame_answer(status, body, expected)
    assert (blame is None) if why is None else (blame is not None and why in blame.why)


def _health(sshd: LoopbackSshd) -> tuple[int, list[dict[str, str]]]:
    command = [sys.executable, "-m", "llava_pack", "health", "--json"]
    command += ["--tunnel", f"{sshd.user}@127.0.0.1", "-p", str(sshd.port)]
    command += [part for one in sshd.options for part in ("-o", one)]
    done = _run(command)
    return done.returncode, json.loads(done.stdout)["findings"]


def test_health_checks_the_way_from_the_laptop(served: Gateway, sshd: LoopbackSshd) -> None:
    code, findings = _health(sshd)
    assert code == 0
    assert [(one["layer"], one["level"]) for one in findings] == [
        ("tunnel", "ok"),
        ("engine", "ok"),
    ]


def test_health_names_the_hop_that_fails(served: Gateway, closed: LoopbackSshd) -> None:
    code, (finding,) = _health(closed)
    assert (code, finding["layer"], finding["level"]) == (2, "tunnel", "fail")
    assert "sshd" in finding["text"]
    assert "AllowTcpForwarding" in finding["fix"]
