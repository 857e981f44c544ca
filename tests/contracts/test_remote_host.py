"""The contract of a server that scripts run on: one shared connection, and one helper."""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pack.client.remote_host import RemoteHost
from llava_pack.format.errors import NetworkError
from tests.support.account import account, asking
from tests.support.cut_tunnel import cut_tunnel
from tests.support.ports import quiet_ports
from tests.support.remote import TRANSPORTS, login_to, reached
from tests.support.sshd import PROGRAM, LoopbackSshd

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no sshd on this machine")
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]


def _folder_of_programs(place: Path, shell: str) -> Path:
    """Make a folder whose `sh` is one shell, and where busybox is all there is besides."""
    place.mkdir()
    if shell != "busybox":
        (place / "sh").symlink_to(shutil.which(shell) or "")
        return place
    for name in ("sh", "dd", "sed", "cat", "grep", "sleep"):
        (place / name).symlink_to(shutil.which("busybox") or "")
    return place


@pytest.fixture(scope="module", params=SHELLS)
def sshd(request: pytest.FixtureRequest) -> Iterator[LoopbackSshd]:
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        programs = _folder_of_programs(Path(name) / "bin", request.param)
        path = f"{programs}" if request.param == "busybox" else f"{programs}:{os.environ['PATH']}"
        with LoopbackSshd(Path(name), {"SetEnv": f"PATH={path}"}) as server:
            yield server


@pytest.fixture(params=TRANSPORTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(kind: str, sshd: LoopbackSshd) -> Iterator[RemoteHost]:
    with reached(kind, login_to(sshd)) as host:
        yield host


def test_a_script_gets_its_arguments_and_its_input_as_they_are(host: RemoteHost) -> None:
    odd = "a'b \"c\n$HOME `x` \\ ! 你好"
    data = bytes(range(256)) * 1000
    done = host.run('printf %s "$1"; echo told >&2; cat; exit 3', odd, data=data)
    assert done.code == 3
    assert done.stdout == odd.encode() + data
    assert done.stderr == b"told\n"
    assert done.last_words == "told"


def test_a_script_that_leaves_its_input_unread_does_not_spoil_the_next(host: RemoteHost) -> None:
    for _ in range(2):
        assert host.run("exit 5", data=b"echo spoiled\n" * 20_000).code == 5
        assert host.run("cat").stdout == b""
        assert host.run("cat", data=b"x").stdout == b"x"


def test_neither_script_nor_argument_is_on_a_command_line(host: RemoteHost) -> None:
    lines = host.run('cat /proc/[0-9]*/cmdline; : "$1"', "sesame-open").stdout
    assert b"exec sh -c" in lines
    assert b"sesame-open" not in lines


def test_a_large_answer_comes_whole(host: RemoteHost) -> None:
    data = b"0123456789abcdef" * 200_000
    assert host.run("cat", data=data).stdout == data


def test_lines_are_told_as_they_come(host: RemoteHost) -> None:
    """The script goes on only when its first line was seen."""
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        seen = []

        def on_line(line: str) -> None:
            seen.append(line)
            (Path(name) / line).touch()

        script = 'echo one; while [ ! -e "$1/one" ]; do sleep 0.01; done; echo two >&2; exit 4'
        done = host.stream(script, name, on_line=on_line)
    assert (done.code, seen) == (4, ["one", "two"])
    assert (done.stdout, done.stderr) == (b"one\n", b"two\n")


def test_a_channel_talks_both_ways(host: RemoteHost) -> None:
    script = 'while read -r line && [ "$line" != end ]; do echo "got $line"; done; exit 6'
    with host.channel(script) as session:
        lines = session.lines()
        for word in ("one", "two"):
            session.write(f"{word}\n".encode())
            assert next(lines) == f"got {word}"
        session.write(b"end\n")
        assert list(lines) == []
        assert session.finish().code == 6
    assert host.run("echo here").stdout == b"here\n"


def test_a_script_that_hangs_is_left_and_said(host: RemoteHost) -> None:
    with pytest.raises(NetworkError, match="no answer within"):
        host.run("sleep 100", timeout_s=0.2)
    with contextlib.suppress(NetworkError):  # a helper is gone with it, and that is said
        host.run("echo here")
    host.connect()
    assert host.run("echo here").stdout == b"here\n"


def test_a_connection_that_breaks_is_an_error_and_can_be_made_anew(
    kind: str, sshd: LoopbackSshd
) -> None:
    with cut_tunnel(sshd.port) as tunnel:
        login = login_to(sshd, port=tunnel.port)
        with reached(kind, login) as host:
            with host.channel("echo begun; read -r line") as session:
                assert next(session.lines()) == "begun"
                tunnel.cut()
                with pytest.raises(NetworkError, match="the connection broke"):
                    session.finish()
            with pytest.raises(NetworkError):
                host.run("echo here")
            with pytest.raises(NetworkError, match="no sshd responds"):
                host.connect()
            tunnel.mend()
            host.connect()
            assert host.run("echo here").stdout == b"here\n"


@pytest.mark.parametrize(
    ("option", "port", "why"),
    [
        ("HostName=no-such-host.invalid", None, "name cannot be resolved"),
        ("PreferredAuthentications=none", None, "rejected the login"),
        ("LogLevel=INFO", 1, "no sshd responds"),
    ],
)
def test_the_hop_that_fails_is_named(
    kind: str, sshd: LoopbackSshd, option: str, port: int | None, why: str
) -> None:
    login = login_to(sshd, option, port=port)
    with pytest.raises(NetworkError, match=why) as failed, reached(kind, login):
        pass
    assert failed.value.subject == "hop: ssh login"


def test_a_banner_is_shown_and_explains_nothing(kind: str) -> None:
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        banner = Path(name) / "banner"
        banner.write_text("Unauthorized access is not permitted\nvisit https://login.corp/x\n")
        said: list[str] = []
        with LoopbackSshd(Path(name), {"Banner": str(banner)}) as sshd:
            with (
                cut_tunnel(sshd.port) as tunnel,
                reached(kind, login_to(sshd, port=tunnel.port), said.append) as host,
            ):
                assert host.run("echo here >&2").stderr == b"here\n"
                with host.channel("echo begun; read -r line") as session:
                    assert next(session.lines()) == "begun"
                    tunnel.cut()
                    with pytest.raises(NetworkError, match="the connection broke") as failed:
                        session.finish()
            assert "visit" not in failed.value.message
            denied = login_to(sshd, "PreferredAuthentications=none")
            with pytest.raises(NetworkError, match="rejected the login"), reached(kind, denied):
                pass
        assert set(banner.read_text().splitlines()) <= set(said)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes an account")
def test_a_password_is_asked_once_and_for_a_tunnel_once_more_at_most(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        environment, log = asking(folder)
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        options = ["BatchMode=no", "PreferredAuthentications=password"]
        with account(folder) as user, LoopbackSshd(folder) as sshd:
            login = replace(login_to(sshd, *options), destination=f"{user}@127.0.0.1")
            with reached(kind, login) as host:
                assert host.run("id -un").stdout.decode().strip() == user
                assert host.run("echo here").stdout == b"here\n"
                assert log.read_text().count("asked") == 1
                (port,) = quiet_ports(1)
                with host.forward(port, f"127.0.0.1:{sshd.port}"):
                    assert _banner(port).startswith(b"SSH-2.0")
        assert log.read_text().count("asked") == {"shared": 1, "helper": 2}[kind]


def _banner(port: int) -> bytes:
    """Return what an sshd says first, once something listens at a port."""
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                return connection.recv(64)
        except ConnectionRefusedError:
            continue
