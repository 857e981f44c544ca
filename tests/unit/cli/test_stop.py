"""`stop` and run states that somebody forged: no process is signalled that did not write its own."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pack.cli.server import stop as stop_command
from llava_pack.format.errors import ServeError
from llava_pack.format.manifest import Engine
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.origin import start_ticks
from llava_pack.serve.run_state import Publication, RunState, publish, running
from llava_pack.serve.subprocesses import _REAP_S
from llava_pack.serve.supervision.plans import LoadOptions, folder_plan, longest_term_s
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
_STRANGER = 12345


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def _state(pid: int) -> RunState:
    return RunState(
        pid=pid,
        host="127.0.0.1",
        port=7860,
        token="",
        socket=None,
        models=("demo",),
        started=1,
        bundle_id=None,
    )


def _forged(publication: Publication, **changes: object) -> None:
    """Write other facts into a state whose lock stays held."""
    told = json.loads(publication.path.read_bytes())
    publication.path.write_text(json.dumps({**told, **changes}))


def test_a_number_that_another_process_has_by_now_is_no_server(
    tmp_path: Path, victim: subprocess.Popen[bytes]
) -> None:
    publication = publish(tmp_path, _state(victim.pid))
    (state,) = running([tmp_path])
    assert (state.start_ticks, state.owner) == (start_ticks(victim.pid), os.getuid())
    _forged(publication, start_ticks=1)
    assert running([tmp_path]) == ()
    publication.withdraw()


@pytest.mark.parametrize("changes", [{"start_ticks": 1}, {"owner": _STRANGER}, {"owner": None}])
def test_what_does_not_prove_to_be_the_server_is_not_signalled(
    tmp_path: Path, victim: subprocess.Popen[bytes], changes: dict[str, int | None]
) -> None:
    """An attack: the number was given to another process between the look and the signal."""
    publication = publish(tmp_path, _state(victim.pid))
    (state,) = running([tmp_path])
    for number in (signal.SIGTERM, signal.SIGKILL):
        with pytest.raises(ServeError, match="could not be confirmed as the server"):
            stop_command._signal(replace(state, **changes), number)
    with pytest.raises(ServeError, match="could not be confirmed as the server"):
        stop_command._kill(replace(state, **changes))
    assert victim.poll() is None
    publication.withdraw()


def test_whose_a_state_is_is_not_believed_of_the_file(
    tmp_path: Path, victim: subprocess.Popen[bytes]
) -> None:
    publication = publish(tmp_path, _state(victim.pid))
    _forged(publication, owner=_STRANGER)
    assert [state.owner for state in running([tmp_path])] == [os.getuid()]
    publication.withdraw()


def test_the_server_itself_is_ended(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    publication = publish(tmp_path, _state(victim.pid))
    (state,) = running([tmp_path])
    stop_command._signal(state, signal.SIGTERM)
    assert victim.wait(timeout=60) == -signal.SIGTERM
    stop_command._signal(state, signal.SIGTERM)  # it is gone: nothing to say
    publication.withdraw()


def test_without_the_proof_whoever_has_the_number_is_ended(
    tmp_path: Path, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutation."""
    publication = publish(tmp_path, _state(victim.pid))
    (state,) = running([tmp_path])
    monkeypatch.setattr(stop_command, "_check", lambda _server: None)
    stop_command._signal(replace(state, start_ticks=1), signal.SIGTERM)
    assert victim.wait(timeout=60) == -signal.SIGTERM
    publication.withdraw()


@pytest.mark.skipif(os.getuid() != 0, reason="only root reads what others wrote")
def test_of_another_account_root_wants_the_start_too(tmp_path: Path) -> None:
    """An attack: an account writes no start into its state, and has root end what comes later."""
    with subprocess.Popen(["sleep", "1000"], user=_STRANGER, group=_STRANGER) as own:
        publication = publish(tmp_path, _state(own.pid))
        _forged(publication, start_ticks=None)
        os.chown(publication.path, _STRANGER, _STRANGER)
        (state,) = running([tmp_path])
        assert state.owner == _STRANGER
        with pytest.raises(ServeError, match="could not be confirmed as the server"):
            stop_command._signal(state, signal.SIGTERM)
        assert own.poll() is None
        own.kill()


@pytest.mark.skipif(os.getuid() != 0, reason="only root reads what others wrote")
def test_what_a_server_of_another_account_runs_with_more_rights_is_left(
    tmp_path: Path, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack: the process that root is to kill has started one of root's, as `sudo` does."""
    import psutil

    with subprocess.Popen(["sleep", "1000"], user=_STRANGER, group=_STRANGER) as own:
        publication = publish(tmp_path, _state(own.pid))
        os.chown(publication.path, _STRANGER, _STRANGER)
        (state,) = running([tmp_path])
        monkeypatch.setattr(stop_command, "_family", lambda _pid: [psutil.Process(victim.pid)])
        stop_command._kill(state)
        assert own.wait(timeout=60) == -signal.SIGKILL
        assert victim.poll() is None


@pytest.mark.parametrize("engine", sorted(RUNTIMES))
def test_an_engine_has_its_own_seconds_before_it_is_forced(engine: Engine) -> None:
    """vLLM gives its processes 20 seconds: what forces it sooner leaves files in memory."""
    plan = replace(folder_plan(ROOT, LoadOptions()), engine=engine)
    own = folder_plan(ROOT, LoadOptions())
    state = replace(_state(1), drain_s=7.0, term_s=longest_term_s([own, plan, own]))
    first, second, third, _ = stop_command._orders(state, force=False)
    assert first == (0.0, signal.SIGTERM)
    assert second[0] >= 7.0 + plan.term_s + _REAP_S
    assert third[0] > second[0]
    assert next(itertools.islice(stop_command._orders(state, force=True), 1, None))[0] < 1
