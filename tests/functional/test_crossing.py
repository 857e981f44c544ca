"""The whole way: the demo as `make demo` runs it, and the tutorial as it is printed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pack.cli import main
from llava_pack.cli.laptop import demo, demo_target
from llava_pack.cli.laptop.demo_target import Phase, TargetRun
from llava_pack.cli.laptop.silence import silenced
from tests.conftest import ROOT
from tests.support.ports import quiet_ports
from tests.support.traces import reached, traced

pytestmark = pytest.mark.engine
BLOCK = re.compile(r"(<!-- run: background -->\n)?```sh\n(.*?)```", re.DOTALL)


def test_the_demo_crosses_and_proves_its_silence(tmp_path):
    folder, log = tmp_path / "demo", tmp_path / "trace"
    command = [sys.executable, "-m", "llava_pack", "demo", "--json", "--folder", str(folder)]
    done = subprocess.run(
        [*traced(log), *command], capture_output=True, text=True, check=False, timeout=800
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert "red circle" in told["answer"]
    assert told["silent"] is (silenced(["true"]) is not None)
    names = [phase["name"] for phase in told["phases"]]
    install = "install, no network" if told["silent"] else "install"
    assert names == [
        "build", "verify", install, "serve, until ready", "ask about a picture", "health", "stop",
    ]  # fmt: skip
    assert all(phase["took_s"] > 0 for phase in told["phases"])
    if told["silent"] and log.exists():
        spoken, outside = reached(log, "unshare")
        assert (spoken > 0, outside) == (True, [])
    [receipt] = folder.glob("server/models/*/current/receipt.json")
    silence = json.loads(receipt.read_text())["silence"]
    assert (silence["installer"], silence["smoke test"]) == ("fenced", "fenced")
    assert (silence["routes"] == []) is told["silent"]


def test_a_demo_that_is_ended_leaves_no_child_and_no_folder(tmp_path):
    """Ended while it builds: its build ends with it, and its folder goes."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "llava_pack", "demo"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as demo:
        assert b"licence" in demo.stderr.readline()
        assert any(tmp_path.iterdir())
        children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
        assert len(children) == 1
        demo.terminate()
        assert demo.wait(timeout=400) == 128 + signal.SIGTERM
    assert [pid for pid in children if Path("/proc", pid).exists()] == []
    assert list(tmp_path.iterdir()) == []


def test_where_no_namespace_is_allowed_none_is_claimed(tmp_path, monkeypatch, capsys):
    """An unshare that is refused; the target's half is stood in for by what it would have told."""
    refused = tmp_path / "unshare"
    refused.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    refused.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert silenced(["true"]) is None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["demo", "--port", str(taken.getsockname()[1])]) == 15
    run = TargetRun(silent=False, answer="a", phases=(Phase(name="install", took_s=1.0),))
    demo._report(run, run.phases, "0" * 64, 7860, as_json=False)
    said = capsys.readouterr()
    assert "is taken by" in said.err
    assert "without a route" not in said.out


def test_whatever_ends_the_waiting_ends_the_child_first(tmp_path):
    """As for the server of `demo --keep`: a child that takes a moment to end is waited for."""
    mark = tmp_path / "ended"
    child = f"trap 'sleep 0.2; echo yes > {mark}; exit 0' TERM; echo; while :; do sleep 0.1; done"
    code = (
        "from llava_pack.cli.laptop.demo_target import ran\n"
        "from llava_pack.cli.unwinding import unwinding\n"
        f"with unwinding(): ran(['sh', '-c', {child!r}])\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        parent.terminate()
        assert parent.wait(timeout=400) == 128 + signal.SIGTERM
    assert mark.read_text() == "yes\n"


def test_a_warning_of_health_does_not_end_the_demo():
    demo_target._done(["sh", "-c", "exit 1"], well=(0, 1))
    for code, well in ((1, (0,)), (2, (0, 1))):
        with pytest.raises(subprocess.CalledProcessError):
            demo_target._done(["sh", "-c", f"exit {code}"], well=well)


def test_the_tutorial_works_as_printed(tmp_path):
    """A busy machine may take longer than a person's, and be warned of by health."""
    page = (ROOT / "docs/tutorial/first-crossing.md").read_text()
    blocks = BLOCK.findall(page)[1:]
    (served,) = map(str, quiet_ports(1))
    lines = ["set -eu", "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT"]
    for background, printed in blocks:
        block = printed.replace("7861", served).replace("$PWD/demo", "demo")
        block = block.replace("demo-run", str(tmp_path / "run")).replace("ready 120", "ready 600")
        block = block.replace("llava-pack health\n", "llava-pack health || [ $? = 1 ]\n")
        lines.append(f"exec {block.strip()} >&2 &" if background else block)
    (tmp_path / "run").mkdir()
    path = f"{sys.prefix}/bin:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=False,
        timeout=800, cwd=ROOT, env={**os.environ, "PATH": path, "LLAVA_PACK_AS_ROOT": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "A red circle" in done.stdout
    assert re.search(r"^(OK - \d+ checks passed|WARNING - )", done.stdout, re.MULTILINE)
    assert "known answers match" in done.stderr
    assert not (tmp_path / "run").exists()
