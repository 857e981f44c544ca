"""A program at the end of its tether, whatever it starts and whoever is killed. All is real here."""

import asyncio
import contextlib
import mmap
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llava_pack.format.errors import ServeError
from llava_pack.serve import tether
from llava_pack.serve.subprocesses import Process, ProcessCommand, dump, end, ended, start
from tests.support.gateway import ROOT
from tests.support.marked import marked, parent
from tests.support.waiting import until

_PYTHON = (sys.executable, "-I", "-S", "-c")
_TERM_S = 1.0
_SLACK_S = 4.0
_LOOKED_S = 2.5
# Ignores SIGTERM, and starts one in a session of its own, an orphan in another, and a stopped one.
_UNRULY = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def child(*then):
    if os.fork() == 0:
        for one in then: one()
        while True: time.sleep(60)
child(os.setsid)
if os.fork() == 0:
    child(os.setsid)
    os._exit(0)
child(lambda: os.kill(os.getpid(), signal.SIGSTOP))
os.waitpid(-1, os.WNOHANG)
while True: time.sleep(60)
"""
_ALL = 4
_SUPERVISOR = """
import asyncio, os, sys
from pathlib import Path
from llava_pack.serve.subprocesses import ProcessCommand, start
async def main():
    command = ProcessCommand(
        argv=tuple(sys.argv[2:]), environment=dict(os.environ), directory=Path("/"),
        term_s=float(sys.argv[1]),
    )
    print((await start(command, "the engine")).pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@dataclass(frozen=True)
class Tree:
    """A supervisor, a tether and an unruly program, with all that it started."""

    supervisor: "subprocess.Popen[str]"
    program: int
    mark: str

    @property
    def strands(self) -> tuple[int, int]:
        """The outer one, and the inner one, whose child the program is."""
        inner = parent(self.program)
        return parent(inner), inner

    @property
    def children(self) -> set[int]:
        return set(self.alive()) - {self.supervisor.pid, *self.strands, self.program}

    def alive(self) -> dict[int, str]:
        return marked(self.mark)


@pytest.fixture
def tree() -> Iterator[Tree]:
    mark = f"of-{uuid.uuid4()}"
    argv = [sys.executable, "-c", _SUPERVISOR, str(_TERM_S), *_PYTHON, _UNRULY]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MARK": mark}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as supervisor:
        try:
            assert supervisor.stdout is not None
            grown = Tree(supervisor, int(supervisor.stdout.readline()), mark)
            until(lambda: len(grown.alive()) == 1 + 2 + _ALL)
            until(lambda: any(_state(pid) == "T" for pid in grown.children))
            yield grown
        finally:
            for pid in marked(mark):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _nothing_is_left(tree: Tree, *but: int) -> None:
    within_s = _TERM_S + _SLACK_S
    until(lambda: not set(tree.alive()) - set(but), within_s=within_s)


@pytest.mark.parametrize("strand", [0, 1])
def test_a_killed_strand_leaves_nothing(tree: Tree, strand: int) -> None:
    os.kill(tree.strands[strand], signal.SIGKILL)
    _nothing_is_left(tree, tree.supervisor.pid)


def test_a_killed_supervisor_leaves_nothing(tree: Tree) -> None:
    tree.supervisor.kill()
    _nothing_is_left(tree)


def test_a_killed_program_leaves_nothing(tree: Tree) -> None:
    os.kill(tree.program, signal.SIGKILL)
    _nothing_is_left(tree, tree.supervisor.pid)


def test_a_killed_child_is_the_programs_affair_and_the_others_end_with_it(tree: Tree) -> None:
    for child in tree.children:
        os.kill(child, signal.SIGKILL)
    until(lambda: not tree.children)
    assert tree.program in tree.alive()
    tree.supervisor.kill()
    _nothing_is_left(tree)


def test_where_all_were_stopped_a_killed_supervisor_leaves_nothing(tree: Tree) -> None:
    for pid in tree.alive():
        os.kill(pid, signal.SIGSTOP)
    tree.supervisor.kill()
    _nothing_is_left(tree)


def test_killed_supervisor_and_strand_leave_nothing(tree: Tree) -> None:
    for pid in (tree.supervisor.pid, tree.strands[0]):
        os.kill(pid, signal.SIGKILL)
    _nothing_is_left(tree)


def test_where_both_strands_are_killed_at_once_the_program_ends_and_its_children_stay(
    tree: Tree,
) -> None:
    """What is true, and said: the kernel ends the program, and nobody is left for the others."""
    children, strands = tree.children, tree.strands
    for pid in strands:  # neither can do anything in between
        os.kill(pid, signal.SIGSTOP)
    for pid in strands:
        os.kill(pid, signal.SIGKILL)
    until(lambda: tree.program not in tree.alive(), within_s=_SLACK_S)
    assert children <= set(tree.alive())


def _with(
    code: str,
    use: Callable[[Process], Awaitable[None]],
    *,
    term_s: float = _TERM_S,
    descriptors: tuple[int, ...] = (),
    arguments: tuple[str, ...] = (),
) -> None:
    """Start a program of a few lines, do something with it, and end it."""

    async def run() -> None:
        command = ProcessCommand(
            argv=(*_PYTHON, code, *arguments), environment=dict(os.environ), directory=ROOT,
            term_s=term_s, descriptors=descriptors,
        )  # fmt: skip
        process = await start(command, "the engine")
        try:
            await use(process)
        finally:
            await end(process, force=True)

    asyncio.run(run())


async def _first_line(process: Process) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(30):
        return (await process.stderr.readline()).decode().strip()


_SAYS_SO = "import os, sys; sys.stderr.write(f'{os.getpid()}\\n'); sys.stderr.flush()"


@pytest.mark.parametrize(
    ("code", "returncode"),
    [
        ("", 0),
        ("raise SystemExit(13)", 13),
        ("import os; os._exit(130)", 130),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os; os.kill(os.getpid(), 11)", -11),
        ("import os; os.setsid(); print(1)", 1),  # it leads a session already
    ],
)
def test_what_a_program_ended_with_is_known(code: str, returncode: int) -> None:
    async def use(process: Process) -> None:
        await process.wait()
        assert process.returncode == returncode
        assert await process.gone(_SLACK_S)

    _with(code, use)


def test_the_number_is_the_programs_own_and_its_streams_are() -> None:
    async def use(process: Process) -> None:
        assert await _first_line(process) == str(process.pid)
        assert os.getsid(process.pid) == process.pid
        files = Path(f"/proc/{process.pid}/fd")
        for number in (0, 1):
            assert (files / str(number)).readlink() == Path(os.devnull)
        strand = Path(f"/proc/{parent(process.pid)}/fd")
        assert (files / "2").readlink() == (strand / "2").readlink()

    _with(f"{_SAYS_SO}\nimport time; time.sleep(60)", use)


def test_what_stays_open_is_the_programs_alone() -> None:
    reader, writer = os.pipe()
    here = Path(f"/proc/self/fd/{writer}").readlink()

    async def use(process: Process) -> None:
        os.close(writer)
        await _first_line(process)
        inner = parent(process.pid)
        held = {pid: _files(pid) for pid in (process.pid, inner, parent(inner))}
        assert [pid for pid, files in held.items() if here in files] == [process.pid]
        assert os.read(reader, 1) == b""  # when it has ended, and not later

    _with(f"{_SAYS_SO}\nimport time; time.sleep(0.3)", use, descriptors=(writer,))
    os.close(reader)


def _files(pid: int) -> set[Path]:
    return {file.readlink() for file in Path(f"/proc/{pid}/fd").iterdir()}


def test_signals_that_python_ignores_are_no_others_affair() -> None:
    async def use(process: Process) -> None:
        status = await asyncio.to_thread(Path(f"/proc/{process.pid}/status").read_text)
        ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
        assert ignored & (1 << (signal.SIGXFSZ - 1) | 1 << (signal.SIGPIPE - 1)) == 0

    sleep = ("/bin/sleep", "60")

    async def run() -> None:
        command = ProcessCommand(argv=sleep, environment={}, directory=ROOT)
        process = await start(command, "the engine")
        await use(process)
        await end(process, force=True)

    asyncio.run(run())


def test_it_has_its_seconds_to_end_in_good_order() -> None:
    code = f"""
import os, signal, sys, time
def end(*_):
    time.sleep(0.3); os.write(2, b"in good order\\n"); os._exit(0)
signal.signal(signal.SIGTERM, end)
{_SAYS_SO}
while True: time.sleep(60)
"""

    async def use(process: Process) -> None:
        await _first_line(process)
        await end(process)
        assert process.returncode == 0
        assert await _first_line(process) == "in good order"

    _with(code, use, term_s=60)


def test_its_seconds_are_bounded() -> None:
    async def use(process: Process) -> None:
        await _first_line(process)
        began_s = time.monotonic()
        await end(process)
        assert _TERM_S <= time.monotonic() - began_s < _TERM_S + _SLACK_S
        assert process.returncode == -signal.SIGKILL

    ignores = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    _with(f"{ignores}\n{_SAYS_SO}\nimport time; time.sleep(600)", use)


def test_one_that_was_stopped_ends_when_it_is_told_to() -> None:
    async def use(process: Process) -> None:
        os.kill(process.pid, signal.SIGSTOP)
        await end(process)
        assert process.returncode == -signal.SIGTERM

    _with("import time; time.sleep(600)", use, term_s=60)


def test_one_that_was_stopped_says_where_it_hangs() -> None:
    async def use(process: Process) -> None:
        assert await _first_line(process)
        os.kill(process.pid, signal.SIGSTOP)
        await dump(process)
        assert await _first_line(process) == "Fatal Python error: Aborted"
        assert process.returncode == -signal.SIGABRT

    _with(f"import faulthandler, time; faulthandler.enable()\n{_SAYS_SO}\ntime.sleep(600)", use)


def test_what_it_leaves_behind_is_told_before_it_is_killed() -> None:
    """A worker that holds a GPU lets go of it in good order, whoever killed its master."""
    code = f"""
import os, signal, sys, time
def end(*_):
    os.write(2, b"let go\\n"); os._exit(0)
signal.signal(signal.SIGTERM, end)
if os.fork() == 0:
    os.setsid()
    {_SAYS_SO}
    while True: time.sleep(60)
while True: time.sleep(60)
"""

    async def use(process: Process) -> None:
        assert await _first_line(process)
        os.kill(process.pid, signal.SIGKILL)
        assert await ended(process, _SLACK_S)
        assert await _first_line(process) == "let go"
        assert await process.gone(_SLACK_S)
        assert process.returncode == -signal.SIGKILL

    _with(code, use, term_s=60)


# Shares memory as vLLM does, and a file as SGLang does, which nobody removes; and has others' too.
_SHARES = """
import mmap, os, sys, time
from multiprocessing.shared_memory import SharedMemory
tracked, closed = (SharedMemory(create=True, size=4096) for _ in range(2))
closed.close()  # only Python's resource tracker knows it now
untracked, *others = [open(path, "a+b") for path in sys.argv[1:]]
untracked.write(f"{tracked.name} {closed.name} ".encode())
untracked.truncate(4096)
maps = [mmap.mmap(file.fileno(), 4096) for file in (untracked, *others)]
untracked.close()
if os.fork() == 0:
    while True: time.sleep(60)
while True: time.sleep(60)
"""
_SHARING = 6
"""The supervisor, two strands, the program, its child and the tracker."""
_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Sharer:
    """A program that shares memory, and files there: its own, and those that have to stay."""

    supervisor: "subprocess.Popen[str]"
    program: int
    own: tuple[Path, ...]
    others: tuple[Path, ...]


@pytest.fixture
def sharer() -> Iterator[Sharer]:
    mark = f"of-{uuid.uuid4()}"
    untracked, before, shared, below = files = [
        _MEMORY / f"{mark}-{word}" for word in ("untracked", "before", "shared", "below/model")
    ]
    below.parent.mkdir()
    for path in (before, shared, below):
        path.write_bytes(bytes(4096))
        path.chmod(0o600)
    time.sleep(0.2)  # or `before` would have been made when the tether began
    argv = [sys.executable, "-c", _SUPERVISOR, "30", *_PYTHON, _SHARES, *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MARK": mark}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as supervisor:
        try:
            assert supervisor.stdout is not None
            program = int(supervisor.stdout.readline())
            until(lambda: len(marked(mark)) == _SHARING)
            names = untracked.read_text().split()[:-1]
            own = (untracked, *(_MEMORY / name for name in names))
            shared.chmod(0o600)  # changed since, as something that the program made
            below.chmod(0o600)
            with shared.open("rb"):
                yield Sharer(supervisor, program, own, (before, shared, below))
        finally:
            for pid in marked(mark):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for path in (*files, *_MEMORY.glob(f"{mark}*")):
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink(missing_ok=True)


@pytest.mark.parametrize("way", ["program", "supervisor", "outer", "inner", "asked", "quit"])
def test_what_was_shared_in_memory_is_removed_whoever_is_killed(sharer: Sharer, way: str) -> None:
    inner = parent(sharer.program)
    outer = parent(inner)
    pid, number = {
        "program": (sharer.program, signal.SIGKILL),
        "supervisor": (sharer.supervisor.pid, signal.SIGKILL),
        "outer": (outer, signal.SIGKILL),
        "inner": (inner, signal.SIGKILL),
        "asked": (outer, signal.SIGTERM),
        "quit": (outer, signal.SIGQUIT),
    }[way]
    assert all(path.exists() for path in (*sharer.own, *sharer.others))
    os.kill(pid, number)
    until(lambda: not any(path.exists() for path in sharer.own), within_s=30)
    until(lambda: not Path(f"/proc/{inner}").exists() and not Path(f"/proc/{outer}").exists())
    assert all(path.exists() for path in sharer.others)


@pytest.mark.parametrize("how", ["told", "killed", "its program is killed", "and all with it"])
def test_shared_memory_goes_with_the_last_that_had_it_mapped(how: str) -> None:
    """As an engine's, whose processes are killed before they can remove it."""
    own, others = (Path(f"/dev/shm/lp-{uuid.uuid4().hex}") for _ in range(2))
    semaphore = own.with_name(f"sem.{own.name}")  # mapped by a name that is gone
    code = f"""
import _multiprocessing, ctypes, mmap, os, sys, time
semaphore = _multiprocessing.SemLock(1, 1, 1, "/{own.name}", False)
for path in sys.argv[1:]:
    with open(path, "wb+") as file:
        file.truncate(4096)
        kept = mmap.mmap(file.fileno(), 4096)
        globals()[path] = kept
if os.fork() == 0:
    os.setsid()
    if {how == "and all with it"}:  # as SGLang's, by PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
    time.sleep(600)
{_SAYS_SO}
time.sleep(600)
"""

    async def use(process: Process) -> None:
        assert await _first_line(process)
        assert semaphore.exists()
        if how == "and all with it":
            await asyncio.sleep(_LOOKED_S)
        with others.open("rb") as file, mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ):
            if how in {"its program is killed", "and all with it"}:
                os.kill(process.pid, signal.SIGKILL)
            else:
                await end(process, force=how == "killed")
            assert await process.gone(_SLACK_S)
            assert [one.exists() for one in (own, semaphore, others)] == [False, False, True]

    _with(code, use, arguments=(str(own), str(others)))
    others.unlink()


@pytest.mark.parametrize(
    ("argv", "directory", "why"),
    [
        (("/nowhere/python",), "/", "No such file or directory"),
        (("/etc/passwd",), "/", "Permission denied"),
        (("/bin/true",), "/nowhere", "No such file or directory"),
    ],
)
def test_what_cannot_be_started_is_said(argv: tuple[str, ...], directory: str, why: str) -> None:
    command = ProcessCommand(argv=argv, environment={}, directory=Path(directory))
    with pytest.raises(ServeError, match=f"cannot start the engine: {why}"):
        asyncio.run(_started(command))


async def _started(command: ProcessCommand) -> None:
    await end(await start(command, "the engine"), force=True)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
@example([""])
@example(["", "two words", "'\"\n", "\udcff"])
def test_arguments_arrive_as_they_are(words: list[str]) -> None:
    async def use(process: Process) -> None:
        assert await _first_line(process) == ascii(words)

    says = "import sys; sys.stderr.write(ascii(sys.argv[1:]) + '\\n')"
    _with(says, use, arguments=tuple(words))


@pytest.mark.parametrize(
    ("parent_is", "count", "told"),
    [
        ("here", "3", b"/bin/true\0"),  # who told it was killed over it
        ("here", "1", b""),
        ("gone", "1", b"/bin/true\0"),
    ],
)
def test_a_tether_starts_nothing_that_it_was_not_told(
    parent_is: str, count: str, told: bytes
) -> None:
    number = str(os.getpid()) if parent_is == "here" else "1"
    argv = [sys.executable, "-I", "-S", str(tether.__file__), "it", number, "1", count]
    done = subprocess.run(argv, input=told, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
