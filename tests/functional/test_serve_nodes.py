"""One model over two machines: two network namespaces with a cable, and an engine like vLLM's.

Real supervisors, a real gateway, real processes; the engine is the reference engine, each of whose
ranks dies as vLLM's do, and leaves a worker behind that nobody watches.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from llava_pack.serve.run_state import RunState, running
from tests.support.gateway import ROOT
from tests.support.namespaces import unshared
from tests.support.two_networks import Machine, two_machines
from tests.support.waiting import until

pytestmark = [
    pytest.mark.skipif(not unshared("-rn"), reason="no network namespaces here"),
    pytest.mark.timeout(120),
]
PORT = 29500
MARK = "LLAVA_PACK_TEST_OF_NODES"
QUESTION = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Program:
    """A head or a follower that runs."""

    process: subprocess.Popen[bytes]
    mark: str
    state_directory: Path
    output: Path

    @property
    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()

    def said(self, text: str, times: int = 1) -> str:
        """Wait until it has said something so many times, and return the last line of them."""

        def found() -> list[str]:
            assert self.process.poll() is None, self.lines
            return [line for line in self.lines if text in line]

        return until(lambda: found() if len(found()) >= times else [])[-1]

    @property
    def state(self) -> RunState | None:
        return next(iter(running([self.state_directory])), None)

    def told(self, name: str) -> object:
        """Return what a follower's run state says."""
        return self.state and self.state.follower[name]

    def pids(self, word: str = "") -> list[int]:
        """Return what runs of it, this process aside, with a word on its command line."""
        return [pid for pid in _marked(self.mark, word) if pid != self.process.pid]

    def engine(self) -> int:
        """Return the process of its part of the engine."""
        return until(lambda: [p for p in self.pids("--count") if _is_python(p)])[0]

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait()


@dataclass
class World:
    """Two machines, and what is started on them."""

    head: Machine
    other: Machine
    folder: Path
    programs: list[Program] = field(default_factory=list)
    before: int = 0
    """Lines of the head's log that are older than the test."""

    def serve(self, *options: str) -> Program:
        """Start the head."""
        there = ("--address", self.head.address, "--interface", self.head.interface)
        there += ("--socket", str(self.folder / "api"), "--no-token", "--rests-s", "0.3")
        there += ("--log", str(self.folder / "log"), "--engine", "--step-s 0.05")
        words = ("gateway.py", "--nodes", "2", *there, *options)
        return self._start(self.head, "head", *words)

    def join(self, *options: str, on: Machine | None = None) -> Program:
        """Start a follower."""
        words = ("--head", self.head.address, "--join-port", str(PORT), *options)
        return self._start(on or self.other, "other", "follower.py", *words)

    def answer(self) -> str:
        with self._client() as client:
            done = client.post("/v1/chat/completions", json=QUESTION)
            done.raise_for_status()
            return str(done.json()["choices"][0]["message"]["content"])

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return self.answer() == "You said: hi"
        return False

    def told(self, *texts: str) -> None:
        """Wait until a line of the head's log, written in this test, has all these texts."""
        until(
            lambda: any(all(text in line for text in texts) for line in self.log()[self.before :])
        )

    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    @contextmanager
    def endless(self) -> Iterator[threading.Event]:
        """Have an answer run that takes minutes; the event tells that it was cut."""
        question = {**QUESTION, "stream": True, "max_tokens": 4000}
        question["messages"] = [{"role": "user", "content": "hi " * 4000}]
        broken, began = threading.Event(), threading.Event()

        def read() -> None:
            url = "/v1/chat/completions"
            with (
                contextlib.suppress(httpx.HTTPError),
                self._client() as client,
                client.stream("POST", url, json=question) as answer,
            ):
                for line in answer.iter_lines():
                    began.set()
                    if "error" in line:
                        break
            broken.set()

        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        until(began.is_set)
        yield broken
        reading.join()

    def _client(self) -> httpx.Client:
        uds = httpx.HTTPTransport(uds=str(self.folder / "api"))
        return httpx.Client(base_url="http://localhost", transport=uds, timeout=60)

    def phase(self) -> tuple[str, str]:
        """Return where the model stands, and why."""
        with self._client() as client:
            model = client.get("/startupz").json()["models"]["echo"]
            return model["phase"], model["detail"]

    def _start(self, machine: Machine, name: str, script: str, *words: str) -> Program:
        mark, state = uuid.uuid4().hex, self.folder / name
        command = [*machine.wrap, sys.executable, str(ROOT / "tests" / "support" / script)]
        said = self.folder / mark
        with said.open("wb") as out:
            process = subprocess.Popen(
                [*command, *words, "--state-dir", str(state)],
                stdout=out,
                stderr=out,
                env={**os.environ, "PYTHONPATH": str(ROOT), MARK: mark},
            )
        program = Program(process, mark, state, said)
        self.programs.append(program)
        return program


def _marked(mark: str, word: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes()
            if ours and word.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def _is_python(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"node_engine.py" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1]
    return False


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as both:
        yield both


@pytest.fixture
def world(machines: tuple[Machine, Machine]) -> Iterator[World]:
    with _world(machines) as world:
        yield world


@pytest.fixture(scope="module")
def lasting(machines: tuple[Machine, Machine]) -> Iterator[World]:
    with _world(machines) as world:
        yield world


@contextmanager
def _world(machines: tuple[Machine, Machine]) -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:  # short: a socket is made in it
        world = World(*machines, Path(folder))
        yield world
        for program in world.programs:
            program.process.kill()
            program.process.wait()
        for program in world.programs:
            until(lambda program=program: not program.pids(), within_s=30)


@pytest.fixture
def served(lasting: World) -> tuple[World, Program, Program]:
    """Have both machines serve, those of the test before where they still do."""
    live = [one for one in lasting.programs if one.process.poll() is None]
    heads = [one for one in live if one.state_directory.name == "head"]
    followers = [one for one in live if one.state_directory.name == "other"]
    follower = followers[0] if followers else lasting.join()
    head = heads[0] if heads else lasting.serve()
    head.said('"port"')
    until(lasting.answers)
    lasting.before = len(lasting.log())
    return lasting, head, follower


def test_both_machines_hold_the_model_and_end_when_they_are_told(world: World) -> None:
    follower = world.join()
    follower.said("cannot be reached")
    head = world.serve()
    head.said('"port"')
    assert world.answers()
    assert head.engine()
    assert follower.engine()
    state = follower.state
    assert state is not None
    assert dict(state.follower) == {
        "head": f"{world.head.address}:{PORT}",
        "rank": 1,
        "phase": "running",
        "detail": "",
    }
    assert head.end() == 0
    follower.said("cannot be reached", times=2)
    until(lambda: not follower.pids())
    assert not head.pids()
    assert follower.end() == 0
    assert follower.state is None


@pytest.mark.parametrize("whom", ["its engine", "its supervisor"])
def test_a_node_that_dies_while_nobody_asks_is_noticed_and_all_start_again(
    served: tuple[World, Program, Program], whom: str
) -> None:
    world, head, follower = served
    before = head.engine()
    if whom == "its engine":
        os.kill(follower.engine(), signal.SIGKILL)
        world.told("node 1 (10.77.0.2): its engine, process", "was killed by SIGKILL; restarting")
    else:
        follower.process.kill()
        world.told("node 1 (10.77.0.2) is gone: ", "; restarting")
        until(lambda: not follower.pids())
        until(lambda: world.phase() == ("starting", "waiting for node 1"))
        world.join()
    until(world.answers)
    assert head.engine() != before
    assert not Path(f"/proc/{before}").exists()


def test_a_node_that_dies_while_it_works_ends_the_answer_and_all_start_again(
    served: tuple[World, Program, Program],
) -> None:
    world, head, follower = served
    before = head.engine(), follower.engine()
    with world.endless() as broken:
        os.kill(before[1], signal.SIGKILL)
        until(broken.is_set)
    world.told("node 1 (10.77.0.2): its engine, process", "; restarting")
    until(world.answers)
    assert not {head.engine(), follower.engine()} & {*before}


def test_a_head_that_is_killed_leaves_nothing_and_is_joined_again_when_it_is_back(
    served: tuple[World, Program, Program],
) -> None:
    world, head, follower = served
    head.process.kill()
    until(lambda: not head.pids())
    until(lambda: not follower.pids())
    until(lambda: follower.told("phase") == "waiting for the head")
    world.serve().said('"port"')
    until(world.answers)


def test_a_cable_that_is_pulled_is_noticed_on_both_sides(
    served: tuple[World, Program, Program],
) -> None:
    world, head, follower = served
    engines = head.engine(), follower.engine()
    world.other.cable(plugged=False)
    try:
        world.told("node 1 (10.77.0.2) is gone: no sign of life for 10 s", "; restarting")
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in engines))
    finally:
        world.other.cable(plugged=True)
    until(world.answers)


def test_a_part_that_does_not_start_ends_the_start_and_says_why(world: World) -> None:
    follower = world.join("--broken", "--join-port", "29600")
    head = world.serve("--join-port", "29600")
    assert head.process.wait() == 15
    assert "node 1 (10.77.0.2): its engine, process" in "\n".join(head.lines)
    assert "exited with code 2" in "\n".join(head.lines)
    assert follower.end() == 0


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--bundle-id", "cd" * 32], 4, f"expected bundle {'ab' * 32} as on the head"),
        (["--key", "another"], 12, "its join key is not this head's"),
        (["--rank", "2"], 2, "expected a rank from 1 to 1, got 2"),
    ],
)
def test_who_may_not_join_ends_and_is_told_why(
    served: tuple[World, Program, Program], options: list[str], code: int, told: str
) -> None:
    world, head, _follower = served
    stranger = world.join(*options)
    assert stranger.process.wait() == code
    error = json.loads(stranger.lines[-1])
    assert told in error["message"]
    head.said(told)
    assert world.answers()


def test_a_place_is_one_machines(served: tuple[World, Program, Program]) -> None:
    world, _head, _follower = served
    second = world.join(on=world.head)
    assert second.process.wait() == 2
    assert "node 1 (10.77.0.2) has already joined" in second.lines[-1]
    assert world.answers()
