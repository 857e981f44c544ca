"""An upgrade under a server that runs: stopped, started, asked, and taken back if it fails."""

import json
import os
import signal
import socket
import subprocess
import time

import pytest


class Served:
    """A stub server of a host, as a person starts it."""

    def __init__(self, host) -> None:
        self.host = host
        self.process = subprocess.Popen(
            [str(host.prefix / "bin/llava-pack"), "serve", "--really"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.until(self.answer), "it never answered"

    @property
    def pid(self):
        return json.loads((self.host.prefix / "run/stub.json").read_text())["pid"]

    def answer(self):
        try:
            port = json.loads((self.host.prefix / "run/stub.json").read_text())["port"]
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                return int(connection.recv(64))
        except (OSError, ValueError):
            return None

    def until(self, true, within_s=60):
        end_s = time.monotonic() + within_s
        while not true() and time.monotonic() < end_s:
            time.sleep(0.02)
        return true()

    def stop(self):
        for pid in {self.process.pid, self.pid if self.answer() else self.process.pid}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


@pytest.fixture
def served(host, medium):
    assert host.install_sh(medium("old", release=1)).returncode == 0
    server = Served(host)
    assert server.answer() == 1
    yield server
    server.stop()


def test_an_upgrade_restarts_what_serves_and_asks_for_its_health(host, medium, served):
    done = host.install_sh(medium("new", release=2))
    assert done.returncode == 0, done.stderr
    assert "stopping serve --really" in done.stderr
    assert served.process.wait(timeout=30) == 0
    assert served.answer() == 2
    assert "runs in the background now" in done.stderr
    assert not (host.prefix / "handover.json").exists()


@pytest.mark.parametrize(
    ("fate", "why"),
    [("crashes", "the new engine cannot be loaded"), ("unwell", "the model does not see")],
)
def test_a_generation_that_does_not_serve_is_taken_back(host, medium, served, fate, why):
    done = host.install_sh(medium("new", release=2, fate=fate))
    assert done.returncode == 14
    assert why in done.stderr
    assert "generation 1 of tiny is still active" in done.stderr
    assert (host.current(), served.answer()) == (1, 1)
    again = host.install_sh(medium("newer", release=3))
    assert again.returncode == 0, again.stderr
    assert served.answer() == 3
