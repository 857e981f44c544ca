"""Run states: who serves on this machine, and stale files that a killed server leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pack.serve.origin import KEPT
from llava_pack.serve.run_state import RunState, directories, publish, running


def _state(*, pid: int | None = None, started: int = 1, **changes: object) -> RunState:
    values = {
        "pid": pid or os.getpid(),
        "host": "127.0.0.1",
        "port": 7860,
        "token": "secret",
        "socket": None,
        "models": ("demo",),
        "started": started,
        "bundle_id": None,
    }
    return RunState(**{**values, **changes})


def test_a_published_state_is_found_as_it_was_written(tmp_path: Path) -> None:
    publication = publish(tmp_path / "run", _state())
    assert running([tmp_path / "run"]) == (_state(),)
    publication.withdraw()
    assert running([tmp_path / "run"]) == ()


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    publication = publish(tmp_path / "run", _state())
    assert publication.path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    publication.withdraw()


def test_the_latest_started_comes_first(tmp_path: Path) -> None:
    held = [publish(tmp_path, _state(pid=n, started=n)) for n in (11, 13, 12)]
    assert [state.pid for state in running([tmp_path])] == [13, 12, 11]
    for publication in held:
        publication.withdraw()


def test_an_installation_meets_its_own_server_before_another_of_the_account(tmp_path: Path) -> None:
    own, account = tmp_path / "own", tmp_path / "account"
    held = [publish(own, _state(pid=1, started=1)), publish(account, _state(pid=2, started=2))]
    assert [state.pid for state in running([own, account])] == [1, 2]
    for publication in held:
        publication.withdraw()


def test_a_file_left_by_a_killed_server_is_stale_and_removed(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path\n"
        "from llava_pack.serve.run_state import RunState, publish\n"
        "held = publish(Path(sys.argv[1]), RunState(pid=os.getpid(), host='127.0.0.1', port=1,"
        " token='', socket=None, models=(), started=1, bundle_id=None))\n"
        "print('written', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"written\n"
        assert [state.pid for state in running([tmp_path])] == [server.pid]
        server.kill()
        server.wait()
        assert running([tmp_path]) == ()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"pid": 1}'])
def test_a_damaged_file_is_not_a_server(tmp_path: Path, content: bytes) -> None:
    publication = publish(tmp_path, _state())
    publication.path.write_bytes(content)
    assert running([tmp_path]) == ()
    publication.withdraw()


def test_a_link_or_a_pipe_is_ignored(tmp_path: Path) -> None:
    publication = publish(tmp_path / "real", _state())
    name = publication.path.name
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / name).symlink_to(publication.path)
    (tmp_path / "piped").mkdir()
    os.mkfifo(tmp_path / "piped" / name)
    assert running([tmp_path / "linked", tmp_path / "piped"]) == ()
    publication.withdraw()


def test_the_installation_comes_before_the_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("LLAVA_PACK_PREFIX", raising=False)
    assert directories() == (tmp_path / "state/llava-pack/run",)
    monkeypatch.setenv("LLAVA_PACK_PREFIX", str(tmp_path))
    assert directories() == (tmp_path / "run", tmp_path / "state/llava-pack/run")


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({}, "http://127.0.0.1:7860"),
        ({"host": "0.0.0.0", "port": 80}, "http://127.0.0.1:80"),
        ({"host": "::1"}, "http://[::1]:7860"),
        ({"socket": "/run/llava.sock"}, "http://localhost"),
    ],
)
def test_the_url_is_one_that_a_local_client_can_open(changes: dict[str, object], url: str) -> None:
    assert _state(**changes).url == url


def test_a_state_says_how_its_server_was_started(tmp_path: Path) -> None:
    """As the kernel has it: what a restart goes by, and what proves that it is this process."""
    publication = publish(tmp_path, _state())
    told = json.loads(publication.path.read_bytes())
    publication.withdraw()
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert told["start_ticks"] == int(stat[19])
    assert told["folder"] == str(Path.cwd())
    assert set(told["environ"]) <= set(KEPT)


@pytest.mark.skipif(os.getuid() != 0, reason="only root reads what others wrote")
def test_root_believes_a_state_only_about_a_process_of_who_wrote_it(tmp_path: Path) -> None:
    """`stop` would else have root end whatever process a service's account names."""
    publication = publish(tmp_path, _state())
    os.chown(publication.path, 12345, 12345)
    assert running([tmp_path]) == ()
    with subprocess.Popen(["sleep", "1000"], user=12345, group=12345) as own:
        theirs = publish(tmp_path, _state(pid=own.pid))
        os.chown(theirs.path, 12345, 12345)
        assert [state.pid for state in running([tmp_path])] == [own.pid]
        own.kill()


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another account")
def test_a_folder_of_another_account_is_not_where_root_writes_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_PACK_PREFIX", str(tmp_path))
    assert directories()[0] == tmp_path / "run"
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 12345, 12345)
    assert directories()[1] == tmp_path / "run"
