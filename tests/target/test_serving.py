"""An upgrade under a server that runs: stopped, started, asked, and taken back if it fails."""

import json
from dataclasses import replace

import pytest

from llava_pack.format.errors import InstallError, SpaceError
from llava_pack.format.progress import Silent
from llava_pack.format.target import Gpu
from llava_pack.target import preflight, serving, smoke
from llava_pack.target.installer import InstallRequest, install
from tests.target.conftest import Served


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
    assert served.process.wait(timeout=200) == 0
    assert served.answer() == 2
    assert "is running in the background" in done.stderr
    assert "generation 2 is being served" in done.stderr
    assert done.stdout.endswith("/bin/llava-pack tunnel\n")
    assert not (host.prefix / "handover.json").exists()
    log = host.prefix / "logs/restarted.log"
    assert log.stat().st_mode & 0o077 == 0, "the page's address in it holds the token"


def test_a_server_of_an_earlier_version_wrote_down_less_and_is_restarted_too(host, medium):
    assert host.install_sh(medium("old", release=1)).returncode == 0
    server = Served(host, "--as-earlier")
    try:
        (state,) = (host.prefix / "run").glob("serve-*.json")
        assert json.loads(state.read_text()) == {"pid": server.pid}
        done = host.install_sh(medium("new", release=2))
        assert done.returncode == 0, done.stderr
        assert server.answer() == 2
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("fate", "why"),
    [("crashes", "the new engine cannot be loaded"), ("unwell", "the model does not see")],
)
def test_a_generation_that_does_not_serve_is_taken_back(host, medium, served, fate, why):
    done = host.install_sh(medium("new", release=2, fate=fate))  # readiness is waited for longer
    assert done.returncode == 14
    assert why in done.stderr
    assert "generation 1 of tiny is still active" in done.stderr
    assert (host.current(), served.answer()) == (1, 1)
    again = host.install_sh(medium("newer", release=3))
    assert again.returncode == 0, again.stderr
    assert served.answer() == 3


GPU = Gpu(name="fake", driver="580.65", compute_capability="8.9", memory_bytes=24 << 30)
FLOORS = {"driver": "525", "memory_bytes": {"nf4": 8 << 30}}


def on_a_gpu(monkeypatch, free_bytes):
    """Have one GPU, which cannot be had here, with so much free memory."""
    gpus = (replace(GPU, memory_free_bytes=free_bytes),)
    monkeypatch.setattr(preflight, "_gpus", lambda: gpus)


@pytest.fixture
def gpu(host, medium, served):
    """Give the request for an upgrade of what serves, to a model that needs 8 GiB of a GPU."""
    new = medium("new", release=2, floors=FLOORS)
    return InstallRequest(bundle=new.root, expect=new.id, prefix=host.prefix)


def test_without_room_on_the_gpu_what_serves_stops_for_the_swap(gpu, served, monkeypatch):
    on_a_gpu(monkeypatch, 1 << 30)
    answers = []
    ask = smoke.ask
    monkeypatch.setattr(smoke, "ask", lambda *a: answers.append(served.answer()) or ask(*a))
    install(gpu, Silent())
    assert answers == [None], "it was stopped before the new one was loaded"
    assert served.answer() == 2


def test_what_was_stopped_for_the_swap_serves_again_when_it_fails(gpu, host, served, monkeypatch):
    on_a_gpu(monkeypatch, 1 << 30)

    def failing(*_):
        raise InstallError("no answer")

    monkeypatch.setattr(smoke, "ask", failing)
    with pytest.raises(InstallError, match="no answer; generation 1 of tiny is still active"):
        install(gpu, Silent())
    assert (host.current(), served.answer()) == (1, 1)
    assert not (host.prefix / "handover.json").exists()


def test_no_downtime_refuses_instead(gpu, host, served, monkeypatch):
    on_a_gpu(monkeypatch, 1 << 30)
    with pytest.raises(SpaceError, match="free GPU memory: expected 8589934592 bytes"):
        install(replace(gpu, downtime=False), Silent())
    assert (host.current(), served.answer()) == (1, 1)


def test_with_room_on_the_gpu_the_old_one_serves_until_the_switch(gpu, served, monkeypatch):
    on_a_gpu(monkeypatch, 20 << 30)
    answers = []
    ask = smoke.ask
    monkeypatch.setattr(smoke, "ask", lambda *a: answers.append(served.answer()) or ask(*a))
    install(replace(gpu, downtime=False), Silent())
    assert (answers, served.answer()) == ([1], 2)


def test_a_server_that_a_killed_upgrade_had_stopped_is_started_by_the_next_run(
    host, medium, gpu, served, monkeypatch
):
    on_a_gpu(monkeypatch, 1 << 30)

    def killed(*_):
        raise SystemExit(137)  # stands in for a kill: the way back is not walked either

    monkeypatch.setattr(smoke, "ask", killed)
    monkeypatch.setattr(serving, "resume", lambda *_: None)
    with pytest.raises(SystemExit):
        install(gpu, Silent())
    assert served.answer() is None
    monkeypatch.undo()
    assert host.install_sh(medium("other", recipe="other")).returncode == 0
    assert served.answer() == 1


def test_a_revert_takes_what_serves_along(host, medium, served, cli):
    assert host.install_sh(medium("new", release=2)).returncode == 0
    assert served.answer() == 2
    ended = cli("revert", "--prefix", host.prefix)
    assert ended.code == 0, ended.err
    assert (host.current(), served.answer()) == (1, 1)


def test_nothing_that_serves_is_removed(host, medium, served, cli):
    ended = cli("uninstall", "--prefix", host.prefix)
    assert ended.code == 14
    assert "a server is still running" in ended.err
    assert served.answer() == 1
    assert host.install_sh(medium("two", recipe="two")).returncode == 0
    assert served.answer() == 1, "another recipe is none of its business"
    assert cli("gc", "--prefix", host.prefix, "--keep", 1).code == 0
    assert served.answer() == 1
