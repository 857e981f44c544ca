"""A run of LLaVA's own code, as the commands for llava-pack's own server meet it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from llava_pack.cli.server.runtimes import _missing
from llava_pack.client.completions import find_server
from llava_pack.client.discovery import ordered
from llava_pack.engine.fence.value import OFF, Standing
from llava_pack.format.errors import ServeError
from llava_pack.llava_serve.bounds import tell
from llava_pack.llava_serve.health import _fences
from llava_pack.llava_serve.processes import UpstreamProcesses, free_ports
from llava_pack.llava_serve.programs import Program
from llava_pack.serve.run_state import RunState, directories, publish, running
from tests.conftest import ROOT
from tests.support.marked import marked
from tests.support.waiting import until, until_async


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    state = RunState(
        pid=os.getpid(), host="127.0.0.1", port=7860, token="t", socket=None, models=("llava-x",),
        started=1, bundle_id=None, controller="http://127.0.0.1:21001",
    )  # fmt: skip
    published = publish(directories()[0], state)
    yield state
    published.withdraw()


def python(role, code, folder):
    argv = (sys.executable, "-c", code)
    return Program(role=role, argv=argv, environment={}, directory=folder)


def processes(program, note=lambda _text: None):
    return UpstreamProcesses([program], free_ports(0), "llava-x", token="", note=note)


def start(program):
    """Start a program that does not come up, and end what there is of it."""

    async def run():
        async with processes(program) as running:
            await running.start()

    asyncio.run(run())


def test_what_stands_around_each_program_crosses_by_the_run_state(tmp_path, server):
    part = Standing(landlock=3, seccomp=True, why="Linux 6.6 cannot restrict TCP ports")
    stand = {"controller": Standing(landlock=7, seccomp=True), "worker": part, "page": part}
    fences = {role: asdict(one) for role, one in stand.items()}
    published = publish(tmp_path, replace(server, fences=fences))
    (found,) = running([tmp_path])
    published.withdraw()
    told = _fences({**found.fences, "of an earlier version": None})
    assert {role: one.said for role, one in told.items()} == {r: str(s) for r, s in stand.items()}
    assert [role for role, one in sorted(told.items()) if not one.whole] == ["page", "worker"]
    assert _missing(found) == [str(part)]
    assert _missing(replace(found, fences={"page": asdict(OFF)})) == []


def test_chat_says_that_it_has_no_such_api(server):
    with pytest.raises(ServeError, match="has no OpenAI-compatible API") as refused:
        find_server()
    assert refused.value.hint == "open its page: http://127.0.0.1:7860"


def test_orders_are_refused_with_what_ends_it(server):
    with pytest.raises(ServeError, match="cannot be controlled") as refused:
        ordered(server, pytest.fail, do="stop")
    assert f"kill {server.pid}" in refused.value.hint


def test_a_program_that_ends_too_soon_is_15_with_its_last_words(tmp_path):
    code = "import sys; sys.exit('no such checkpoint')"
    program = python("controller", code, tmp_path / "run")
    with pytest.raises(ServeError, match="last output: no such checkpoint") as ended:
        start(program)
    assert ended.value.exit_code == 15


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("import sys; sys.exit('it ended\\nhint: boot another kernel')", "boot another kernel"),
        ("import sys; sys.exit('Permission denied')", "--no-fence"),
        ("import sys; sys.exit('no such checkpoint')", ""),
    ],
)
def test_what_to_do_is_told_where_it_is_known(tmp_path, code, hint):
    program = python("worker", code, tmp_path)
    tell(Standing(landlock=7, seccomp=True), tmp_path)
    with pytest.raises(ServeError) as ended:
        start(program)
    assert hint in ended.value.hint
    assert bool(ended.value.hint) == bool(hint)
    assert "hint" not in ended.value.message


def test_being_told_to_end_while_it_starts_leaves_no_process(tmp_path):
    mark = tmp_path / "pid"
    code = f"import os, time; open({str(mark)!r}, 'w').write(f'{{os.getpid()}} '); time.sleep(600)"

    async def run():
        async with processes(python("controller", code, tmp_path)) as running:
            starting = asyncio.create_task(running.start())
            await until_async(lambda: mark.exists() and mark.read_text())
            starting.cancel()

    asyncio.run(run())
    assert not Path("/proc", mark.read_text().strip()).exists()


def test_what_ended_is_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr(UpstreamProcesses, "_answers", lambda *_: True)
    mark = tmp_path / "starts"
    code = f"import time; open({str(mark)!r}, 'a').write('x'); time.sleep(1)"
    notes = []

    async def run():
        async with processes(python("worker", code, tmp_path), notes.append) as running:
            await running.start()
            await until_async(lambda: mark.exists() and len(mark.read_text()) > 1)

    asyncio.run(run())
    assert notes[0] == "starting worker"
    assert notes[1] == "! worker exited with code 0; last output: nothing; restarting in 0.5 s"


def test_a_program_that_is_not_there_is_15(tmp_path):
    program = Program(role="page", argv=("/nowhere/python",), environment={}, directory=tmp_path)
    with pytest.raises(ServeError, match=r"cannot start LLaVA's page: No such file"):
        start(program)


# The three are a few lines in their places, each with a child in a session of its own.
_RUN = """
import os, sys
from pathlib import Path
from llava_pack.format.progress import Silent
from llava_pack.health.runtimes import RuntimePlan
from llava_pack.llava_serve import processes, serve
from llava_pack.llava_serve.programs import Program
from llava_pack.serve.run_state import RunState
from llava_pack.serve.supervision.plans import EnginePlan

folder, sleeps = Path(sys.argv[1]), "import signal, time; SIGNALS; time.sleep(600)"
code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleeps!r}], "
code += f"start_new_session=True); {sleeps}"
def program(role, home):
    argv = (sys.executable, "-I", "-S", "-c", code)
    return Program(role=role, argv=argv, environment=dict(os.environ), directory=home / role)
serve.launched = lambda _plan, _ports, home: tuple(
    program(role, home) for role in ("controller", "worker", "page")
)
processes.UpstreamProcesses._answers = lambda *_: True
state = RunState(
    pid=os.getpid(), host="127.0.0.1", port=0, token="t", socket=None, models=("llava-x",),
    started=1, bundle_id=None,
)
plan = RuntimePlan(
    engine=EnginePlan(name="llava-x", model_dir=folder, python=Path(sys.executable)),
    state=state, state_directory=folder,
)
sys.exit(serve.run(plan, lambda _state: print("up", flush=True), Silent()))
"""
_OBEYS, _IGNORES = "pass", "signal.signal(15, signal.SIG_IGN)"


@pytest.mark.parametrize(
    ("numbers", "how", "code"),
    [
        ([signal.SIGINT], _OBEYS, 0),
        ([signal.SIGTERM, signal.SIGTERM], _IGNORES, 128 + signal.SIGTERM),
        ([signal.SIGKILL], _IGNORES, -signal.SIGKILL),
    ],
)
def test_however_a_run_ends_nothing_of_the_three_is_left(tmp_path, numbers, how, code):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MARK": str(tmp_path)}
    argv = [sys.executable, "-c", _RUN.replace("SIGNALS", how), str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as serving:
        assert serving.stdout.readline() == "up\n"
        until(lambda: len(marked(str(tmp_path))) == 1 + 3 * 4)
        assert len(running([tmp_path])) == 1
        for number in numbers:
            serving.send_signal(number)
            time.sleep(0.2)  # signals of one number that are not heard yet are one
        assert serving.wait() == code
    until(lambda: not marked(str(tmp_path)), within_s=9)
    assert running([tmp_path]) == ()
