"""Installs that fail or are killed: the old generation serves on, and the next run completes."""

import fcntl
import json
import os

import pytest

from tests.support.bundle import SMOKE_FAILS, SMOKE_PASSES

KILL_ONCE = "import os, signal\nif not os.path.exists({flag!r}):\n    open({flag!r}, 'w')\n    "


@pytest.fixture
def flag(tmp_path):
    return str(tmp_path / "flag")


def killed_in(step, flag):
    """Return fields of a bundle whose install is killed, once, in the middle of a step."""
    if step == "venv":
        return {"uv_first": f'[ -e "{flag}" ] || {{ : >"{flag}"; kill -9 $PPID; }}'}
    kill = KILL_ONCE.format(flag=flag) + "os.kill(os.getppid(), signal.SIGKILL)\n"
    return {"smoke": kill + SMOKE_PASSES}


@pytest.mark.parametrize("step", ["venv", "smoke"])
def test_a_killed_install_is_completed_by_the_next_run(host, medium, flag, step):
    host.install_sh(medium("old"))
    new = medium("new", weights=b"newer weights", **killed_in(step, flag))
    assert host.install_sh(new).returncode == 137
    assert host.current() == 1
    assert host.run("old") == f"{host.prefix} old"
    done = host.install_sh(new)
    assert done.returncode == 0, done.stderr
    assert f"an earlier install stopped at {step}: resuming" in done.stderr
    left = [path.name for path in (host.prefix / "models/tiny/generations").iterdir()]
    assert host.current() in {int(name) for name in left}
    assert len(left) == 2
    names = {path.name for path in host.prefix.iterdir()}
    assert names == {"bin", "lock", "models", "place", "store"}


def test_a_terminated_install_cleans_up_and_says_so(host, medium, flag):
    stop = KILL_ONCE.format(flag=flag) + (
        "parent = os.getppid()\n"
        "    status = open(f'/proc/{parent}/stat').read()\n"
        "    os.kill(int(status.rpartition(')')[2].split()[1]), signal.SIGTERM)\n"
        "    signal.pause()\n"
    )
    new = medium(smoke=stop + SMOKE_PASSES)
    assert host.install_sh(new).returncode == 143
    assert list((host.prefix / "models/tiny/generations").iterdir()) == []
    assert not list(host.prefix.glob(".bootstrap.*"))
    assert host.install_sh(new).returncode == 0


def test_a_smoke_test_that_fails_leaves_what_was_active(host, medium):
    bad = medium("bad", smoke=SMOKE_FAILS)
    done = host.install_sh(bad, "--json")
    assert done.returncode == json.loads(done.stdout)["exit_code"] == 14
    assert "no generation is active" in done.stderr
    assert host.current() is None
    assert not (host.prefix / "bin").exists()
    host.install_sh(medium("good"))
    done = host.install_sh(bad)
    assert done.returncode == 14
    assert "generation 1 of tiny is still active" in done.stderr
    assert host.current() == 1
    assert [path.name for path in (host.prefix / "models/tiny/generations").iterdir()] == ["1"]


@pytest.mark.parametrize(
    "smoke", ["print('no json')\n", "raise SystemExit(3)\n", "print('[1]')\n", "x = ("]
)
def test_a_smoke_test_that_says_nothing_useful_has_failed(host, medium, smoke):
    assert host.install_sh(medium(smoke=smoke)).returncode == 14


def test_a_venv_that_cannot_be_built_says_why(host, medium):
    done = host.install_sh(medium(uv_first="echo the wheel is rotten >&2; exit 2"))
    assert done.returncode == 14
    assert "the wheel is rotten" in done.stderr
    assert "no generation is active" in done.stderr


def test_only_one_installer_at_a_time(host, medium):
    tiny = medium()
    host.install_sh(tiny)
    with (host.prefix / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = host.install_sh(tiny)
    assert done.returncode == 14
    assert "another install" in done.stderr


def test_the_private_folder_of_a_run_that_is_no_more_is_removed(host, medium):
    host.prefix.mkdir()
    stale = host.prefix / ".bootstrap.4194304.abcdef"
    alive = host.prefix / f".bootstrap.{os.getpid()}.abcdef"
    stale.mkdir()
    alive.mkdir()
    assert host.install_sh(medium()).returncode == 0
    assert not stale.exists()
    assert alive.exists()


def test_a_store_that_rotted_is_mended_from_the_medium(host, medium):
    one = medium("one", recipe="one")
    host.install_sh(one)
    objects = [path for path in (host.prefix / "store/sha256").rglob("*") if path.is_file()]
    rotten = next(path for path in objects if path.read_bytes() == b"weights of a tower")
    rotten.chmod(0o644)
    rotten.write_bytes(b"weights of a rotter")
    done = host.install_sh(medium("two", recipe="two"))
    assert done.returncode == 0, done.stderr
    tower = host.prefix / "models/two/current/model/tower/model.safetensors"
    assert tower.read_bytes() == b"weights of a tower"
