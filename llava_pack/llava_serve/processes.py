"""The three programs as processes: started one after the other, watched, started again, ended."""

import logging
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Self

from llava_pack.engine.fence.blame import suspected
from llava_pack.engine.fence.value import OFF, Standing
from llava_pack.format.errors import ServeError, reason_of
from llava_pack.llava_serve.bounds import HINT, told
from llava_pack.llava_serve.client import UpstreamClient
from llava_pack.llava_serve.programs import LOOPBACK, Ports, Program, Role
from llava_pack.serve.supervision.restarts import Restarts

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.2
_TERM_S = 5.0
_LAST_LINES = 12
_LAST_WORDS_S = 2.0


class UpstreamProcesses:
    """One run of `llava.serve`; use it as a context manager, whose end ends the processes.

    Args:
        programs: in their order.
        ports: where they listen.
        model: the worker's name for the model.
        token: of the start.
    """

    def __init__(
        self, programs: Sequence[Program], ports: Ports, model: str, *, token: str
    ) -> None:
        self._watched = [_Watched(program) for program in programs]
        self._ports, self._model, self._token = ports, model, token

    def __enter__(self) -> Self:
        for one in self._watched:
            one.program.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._watched:
            one.tell()
        until_s = time.monotonic() + _TERM_S
        for one in self._watched:
            one.end(within_s=max(0.0, until_s - time.monotonic()))

    def start(self, told: Callable[[], bool], note: Callable[[str], None]) -> bool:
        """Start the three, each when the one before answers; False where `told` to end meanwhile.

        Args:
            told: whether to give up; asked often.
            note: hears which one is started.

        Raises:
            ServeError: one ended; with its last words.
        """
        for one in self._watched:
            note(f"starting {one.program.role}")
            one.start()
            while not self._answers(one.program.role):
                one.check()
                if told():
                    return False
                time.sleep(_LOOK_EVERY_S)
        return True

    def revive(self, note: Callable[[str], None]) -> None:
        """Start again what has ended, later each time."""
        for one in self._watched:
            one.revive(note)

    def pids(self) -> tuple[int, ...]:
        """Return the processes that were started, in their order."""
        return tuple(pid for one in self._watched if (pid := one.pid) is not None)

    def standings(self) -> Mapping[str, Standing]:
        """Return which fence stands around each program, as far as they have told."""
        return told((one.program.role, one.program.directory) for one in self._watched)

    def _answers(self, role: Role) -> bool:
        with UpstreamClient(self._ports.url("controller"), self._token) as client:
            with suppress(ServeError):
                listed = client.models()
                if role == "page":
                    return client.page(self._ports.url("page")) == (200, True)
                # a worker registers before it listens, and a refresh forgets it until it does
                return role == "controller" or self._model in listed
            return False


class _Watched:
    """One program, and the last lines that it wrote."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._process: subprocess.Popen[str] | None = None
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._reader: threading.Thread | None = None
        self._restarts = Restarts()
        self._again_s: float | None = None

    def start(self) -> None:
        self._again_s = None
        self._restarts.begin()
        self._lines.clear()
        try:
            process = subprocess.Popen(
                self.program.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=dict(self.program.environment),
                cwd=self.program.directory,
                text=True,
                errors="backslashreplace",
                start_new_session=True,
            )
        except OSError as error:
            why = reason_of(error)
            raise ServeError(f"cannot be started: {why}", subject=self.program.role) from error
        self._process = process
        self._reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._reader.start()

    def check(self) -> None:
        """Raise where the process has ended."""
        code = None if self._process is None else self._process.poll()
        if code is not None:
            if self._reader is not None:
                self._reader.join(_LAST_WORDS_S)
            said, hint = self._last_words()
            raise ServeError(
                f"exited with code {code} before it was ready; last output: {said}",
                subject=f"LLaVA's {self.program.role}",
                hint=hint,
            )

    def revive(self, note: Callable[[str], None]) -> None:
        if self._process is None or self._process.poll() is None:
            return
        if self._again_s is None:
            wait_s = self._restarts.rest_s()
            self._again_s = time.monotonic() + wait_s
            said = self._lines[-1] if self._lines else "nothing"
            code = self._process.returncode
            note(
                f"! {self.program.role} exited with code {code} ({said}); "
                f"restarting in {wait_s:g} s"
            )
        elif time.monotonic() >= self._again_s:
            self.start()

    @property
    def pid(self) -> int | None:
        """The process, None before it was started."""
        return None if self._process is None else self._process.pid

    def tell(self) -> None:
        """Ask the process to end."""
        if self._process is not None:
            self._process.terminate()

    def end(self, *, within_s: float) -> None:
        """Wait for its end, and kill it after that."""
        process = self._process
        if process is None:
            return
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _last_words(self) -> tuple[str, str]:
        """Return what it said at last, and what to do about it where that is known."""
        *before, last = self._lines or ("nothing",)
        if last.startswith(HINT):
            return " | ".join(before), last.removeprefix(HINT)
        said = " | ".join((*before, last))
        one = self.program
        return said, suspected(said, told([(one.role, one.directory)]).get(one.role, OFF))

    def _read(self, process: subprocess.Popen[str]) -> None:
        with process:
            for line in process.stderr or ():
                self._lines.append(line.rstrip())
                _log.debug("%s: %s", self.program.role, line.rstrip())


def free_ports(page: int) -> Ports:
    """Return ports for the three: the page's as given, 0 for a free one; the others free."""
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for each in (one, two, three):
            each.bind((LOOPBACK, 0))
        found = [each.getsockname()[1] for each in (one, two, three)]
    return Ports(controller=found[0], worker=found[1], page=page or found[2])
