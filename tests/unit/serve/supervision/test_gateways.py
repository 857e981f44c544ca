"""A gateway under supervision: replaced when it hangs, ends or talks nonsense. The processes are
real; what runs in them is a few lines in the gateway's place.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from llava_pack.format.errors import CheckpointError, ServeError
from llava_pack.serve.access.audit import AuditPlan
from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.care import Care
from llava_pack.serve.feed import Start
from llava_pack.serve.supervision.gateway import SupervisedGateway
from llava_pack.serve.supervision.gateway_process import GatewayPlan
from llava_pack.serve.supervision.heartbeat import Heartbeat

# Speaks for itself: hears what it is told, and says that it listens.
_BEATS = """
import json, os, signal, socket, sys, time
channel = socket.socket(fileno=int(sys.argv[1]))
stream = channel.makefile("rb")
start, bulletin = json.loads(stream.readline()), json.loads(stream.readline())
def beat():
    fields = {"seen": bulletin["number"], "listening": True, "in_flight": {}, "reached": [], "left": {}}
    channel.sendall(json.dumps(fields).encode() + b"\\n")
beat()
"""
_HANGS = f"{_BEATS}\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)"
_WAKES = f"""
{_BEATS}
def late(*_):
    beat(); time.sleep(0.3); os.kill(os.getpid(), signal.SIGKILL)
signal.signal(signal.SIGABRT, late)
while True: time.sleep(1)
"""
_LIVES = f"{_BEATS}\nwhile True: time.sleep(0.1); beat()"
_CHILD = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
sys.stderr.write(f"child {{child.pid}}\\n"); sys.stderr.flush()
{_LIVES}
"""
_CARE = Care(gateway_s=0.5, rests_s=(0.01,))


class _Seen:
    """A gateway that runs, and what was heard of it."""

    def __init__(self, script: str, folder: Path, listening: socket.socket) -> None:
        self.notes: list[str] = []
        self.stalled: list[bool] = []
        self.noted = asyncio.Event()
        self.gateway = SupervisedGateway(
            GatewayPlan(
                listening=listening,
                directory=folder,
                environment=dict(os.environ),
                care=_CARE,
                argv=(sys.executable, "-X", "faulthandler", "-c", script),
            ),
            Start(
                policy=AccessPolicy(secrets=None), web=False, bundle_id=None, queue=1, restarts=0,
                log=None, audit=AuditPlan(), fence="off", home=Path("/nowhere"), left={},
            ),
            tuple,
            self._note,
        )  # fmt: skip

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.stalled.append(self.gateway.stalled)
        self.noted.set()


def _with(script: str, folder: Path, use: Callable[[_Seen], Awaitable[None]]) -> None:
    """Run a gateway until `use` is done with it, or it could not be started."""

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            seen = _Seen(script, folder, listening)
            running = asyncio.create_task(seen.gateway.run())
            using = asyncio.ensure_future(use(seen))
            await asyncio.wait({running, using}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                using.cancel()
                running.result()
            await seen.gateway.stop()
            await running
            using.result()

    asyncio.run(run())


async def _replaced(seen: _Seen) -> None:
    await seen.gateway.answers.wait()
    await seen.noted.wait()
    seen.gateway.answers.clear()
    await seen.gateway.answers.wait()


async def _answers(seen: _Seen) -> None:
    await seen.gateway.answers.wait()
    await seen.gateway.told()


def test_one_that_is_told_to_end_is_killed_where_it_does_not(tmp_path: Path) -> None:
    _with(f"{_LIVES}", tmp_path, _answers)


def test_one_that_hangs_is_replaced_and_says_where_it_hung(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def use(seen: _Seen) -> None:
        await _replaced(seen)
        assert "hung: no heartbeat for" in seen.notes[0]

    _with(_HANGS, tmp_path, use)
    assert "Fatal Python error: Aborted" in capsys.readouterr().err


def test_a_heartbeat_after_it_was_given_up_does_not_count(tmp_path: Path) -> None:
    """One that was stopped goes on to say where it hung: a watchdog would be fed while it rests."""

    async def use(seen: _Seen) -> None:
        await _replaced(seen)
        assert "hung: no heartbeat for" in seen.notes[0]
        assert "for 0 s" not in seen.notes[0]
        assert seen.stalled[0]

    _with(_WAKES, tmp_path, use)


def test_without_the_look_it_is_left_to_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutation: the supervisor hears signs of life and does not miss them."""
    monkeypatch.setattr(Heartbeat, "look", lambda _self: None)

    async def use(seen: _Seen) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_replaced(seen), 3)

    _with(_HANGS, tmp_path, use)


@pytest.mark.parametrize(
    "nonsense", ["b'nonsense\\n'", "b'x' * 100_000", "b'{\"seen\": {}}\\n'", "b'[' * 9000 + b'\\n'"]
)
def test_one_that_talks_nonsense_is_replaced(tmp_path: Path, nonsense: str) -> None:
    async def use(seen: _Seen) -> None:
        await _replaced(seen)
        assert "another process sent a" in seen.notes[0]

    _with(f"{_BEATS}\nchannel.sendall({nonsense})\nwhile True: time.sleep(1)", tmp_path, use)


def test_one_that_ends_is_replaced(tmp_path: Path) -> None:
    async def use(seen: _Seen) -> None:
        await _replaced(seen)
        assert "exited with code 3" in seen.notes[0]

    _with(f"{_BEATS}\nos._exit(3)", tmp_path, use)


def test_what_it_started_ends_with_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _with(_CHILD, tmp_path, _answers)
    child = int(capfd.readouterr().err.split()[1])
    assert not Path(f"/proc/{child}").exists() or _zombie(child)


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ("import sys; sys.exit(3)", ServeError, "exited with code 3"),
        ("import no_such_module_xyz", ServeError, "exited with code 1"),
        (
            "import sys; sys.stderr.write('ERROR a: no such folder\\n'); sys.exit(13)",
            CheckpointError,
            "no such folder",
        ),
    ],
)
def test_one_that_cannot_start_ends_the_run_with_its_error(
    tmp_path: Path, script: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as raised:
        _with(script, tmp_path, _answers)
    assert type(raised.value) is kind


def test_a_program_that_is_not_there_is_said(tmp_path: Path) -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            seen = _Seen("", tmp_path / "gone", listening)
            await seen.gateway.run()

    with pytest.raises(ServeError, match="cannot start the gateway"):
        asyncio.run(run())
