"""A server reached from Windows: probed, tunnelled to, checked, through a real sshd on loopback."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import httpx
import pytest

from tests.support.bundle import BundleSimulator
from tests.support.gateway import TOKEN, gateway
from tests.support.sshd import LoopbackSshd

_BUNDLE = "ab" * 32


@pytest.fixture(scope="module")
def server_home():
    with tempfile.TemporaryDirectory(prefix="lp-") as name:  # short: sockets are made below it
        yield Path(name)


@pytest.fixture(scope="module")
def sshd(server_home):
    """Run a server whose sessions find this llava-pack, and one model that it serves."""
    folder = server_home
    (folder / "sshd").mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = {"SetEnv": f"PATH={path} XDG_STATE_HOME={folder} HOME={folder}"}
    with (
        gateway(folder / "llava-pack" / "run", "--bundle-id", _BUNDLE),
        LoopbackSshd(folder / "sshd", settings) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def login(sshd):
    options = [part for one in sshd.options for part in ("-o", one)]
    return [f"{sshd.user}@127.0.0.1", "-p", sshd.port, *options]


def test_probe_saves_the_servers_facts(bare_windows, login):
    done = bare_windows.run("probe", *login, "--out", "gpu 01.json")
    assert done.returncode == 0, done.stderr
    assert '--target "gpu 01.json"' in done.stderr
    profile = (bare_windows.folder / "gpu 01.json").read_bytes()
    assert b"\r" not in profile
    assert json.loads(profile)["os"] == "linux"


def test_tunnel_opens_the_page_until_ctrl_c(bare_windows, login):
    with bare_windows.started("tunnel", *login, "--expect", _BUNDLE[:12]) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        page = next(line for line in lines if line.startswith("http"))
        url, _, token = page.strip().partition("/#token=")
        assert token == TOKEN
        bearer = {"Authorization": f"Bearer {token}"}
        answer = httpx.get(f"{url}/v1/models", headers=bearer, trust_env=False)
        assert [model["id"] for model in answer.json()["data"]] == ["echo"]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=100) == 130
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--check"], 0, "echo is ready"),
        (["--check", "--expect", "cd" * 6], 9, "expected the bundle cdcdcdcdcdcd"),
    ],
)
def test_tunnel_names_what_answers(bare_windows, login, options, code, said):
    done = bare_windows.run("tunnel", *login, *options)
    assert done.returncode == code, done.stderr
    assert said in done.stderr


def test_tunnel_names_the_hop_that_fails(bare_windows):
    done = bare_windows.run("tunnel", "me@127.0.0.1", "-p", "9", "--check")
    assert done.returncode == 9
    assert "hop: ssh login: no sshd responds" in done.stderr


def test_send_carries_a_bundle_over_and_a_second_time_nothing(bare_windows, login, server_home):
    identity = BundleSimulator().write(bare_windows.folder / "tiny")
    for _ in range(2):
        done = bare_windows.run("send", "tiny", *login)
        assert done.returncode == 0, done.stderr
    (arrived,) = [path.parent for path in server_home.rglob("SHA256SUMS")]
    assert hashlib.sha256((arrived / "SHA256SUMS").read_bytes()).hexdigest() == identity
    check = ["sha256sum", "--quiet", "--check", "SHA256SUMS"]
    assert subprocess.run(check, cwd=arrived, check=False).returncode == 0


def test_health_looks_through_a_tunnel(bare_windows, login):
    done = bare_windows.run("health", "--tunnel", *login)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("OK - ")


def test_a_support_bundle_is_made_of_what_there_is(bare_windows):
    done = bare_windows.run("support-bundle", "--out", "support.tar.gz")
    assert done.returncode == 0, done.stderr
    with tarfile.open(bare_windows.folder / "support.tar.gz") as archive:
        names = archive.getnames()
        assert "llava-pack-support/ABOUT.txt" in names
        text = b"".join(archive.extractfile(name).read() for name in names)
    assert os.environ.get("USER", "root").encode() not in text or os.geteuid() == 0
