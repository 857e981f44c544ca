"""The last line that an install prints: right for who types it, and for where."""

import os
import pwd
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pack.cli.server.service import app as service
from llava_pack.target import next_step as steps
from llava_pack.target.next_step import next_step

FORGED = str(Path(__file__).parents[1] / "support/forged_process.py")


@pytest.fixture
def systemd(tmp_path):
    place = tmp_path / "systemd"
    place.mkdir()
    return place


@pytest.fixture
def root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def program(tmp_path):
    return shlex.quote(f"{tmp_path}/a prefix/bin/llava-pack")


def test_an_account_serves(tmp_path, program, monkeypatch, systemd):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    following = next_step(tmp_path / "a prefix", systemd=systemd)
    assert (following.command, following.why) == (f"{program} serve", "")


@pytest.mark.usefixtures("root")
def test_root_in_a_container_serves_as_root_and_hears_why(tmp_path, program):
    following = next_step(tmp_path / "a prefix", systemd=tmp_path / "none")
    assert following.command == f"{program} serve --as-root"
    assert following.why.startswith("! root has to serve it itself: systemd")


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("known", [True, False])
def test_root_has_an_account_of_its_own_serve_where_systemd_runs(systemd, monkeypatch, known):
    monkeypatch.setattr(steps, "ACCOUNT", pwd.getpwuid(os.getuid()).pw_name if known else "no-one")
    following = next_step(Path("/opt/llava-pack"), systemd=systemd)
    made, _, installed = following.command.rpartition(" && ")
    account = steps.ACCOUNT
    assert installed == f"/opt/llava-pack/bin/llava-pack service install --account {account}"
    assert made == ("" if known else f"useradd --system --shell /usr/sbin/nologin {account}")
    assert {"install"} <= {command.callback.__name__ for command in service.registered_commands}


@pytest.mark.usefixtures("root")
def test_no_account_is_proposed_that_could_not_enter(tmp_path, program, systemd):
    tmp_path.chmod(0o700)
    following = next_step(tmp_path / "a prefix", systemd=systemd)
    assert following.command == f"{program} serve --as-root"
    assert "no other account can enter /" in following.why


def test_what_serves_already_is_reached(tmp_path):
    """An upgrade's `serve` would find its own port taken."""
    words = [f"{tmp_path}/models/demo/current/venv/bin/python", "-I", "-m", "llava_pack", "serve"]
    argv = [sys.executable, FORGED, str(os.geteuid()), *words, "--", "x" * 200]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        assert server.stdout.readline() == b"forged\n"
        following = next_step(tmp_path, "demo")
        other = next_step(tmp_path, "another")
        (tmp_path / "models/demo").mkdir(parents=True)
        (tmp_path / "models/demo/current").symlink_to("generations/2")
        late = next_step(tmp_path, "demo")
        os.utime(tmp_path / "models/demo/current", (1, 1), follow_symlinks=False)
        newer = next_step(tmp_path, "demo")
        server.kill()
    assert following.command == newer.command == f"{tmp_path}/bin/llava-pack tunnel"
    assert newer.why.startswith("generation 2 is being served")
    assert late.why.startswith(f"! process {server.pid} still serves the version before")
    assert late.command == f"{tmp_path}/bin/llava-pack stop && {tmp_path}/bin/llava-pack serve"
    assert " serve" in other.command
