"""The three programs as processes: each started when the one before answers, and kept running."""

import asyncio
import functools
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Self

from llava_pack.engine.fence.blame import suspected
from llava_pack.engine.fence.value import OFF, Standing
from llava_pack.format.errors import PackError, ServeError
from llava_pack.llava_serve.bounds import HINT, told
from llava_pack.llava_serve.client import UpstreamClient
from llava_pack.llava_serve.programs import LOOPBACK, Ports, Program, Role
from llava_pack.serve.care import RESTS_S
from llava_pack.serve.subprocesses import Process, fate, start
from llava_pack.serve.supervision.lifetime import ProcessLife, Supervised

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.2
_LAST_LINES = 12


class ProgramLife(ProcessLife):
    """One process of a program.

    Args:
        program: how it is started.
        answers: asks it, and returns whether it answers; may block.
        up: set when it first does.
    """

    def __init__(self, program: Program, answers: Callable[[], bool], up: asyncio.Event) -> None:
        super().__init__(f"LLaVA's {program.role}", _LAST_LINES)
        self._program = program
        self._answers = answers
        self._up = up

    async def run(self) -> None:
        """Start the process, and raise what it ended with.

        Raises:
            ServeError: always; nothing of the process is left.
        """
        process = await start(self._program, self._whose)
        await self._live_with(process, self._live(process), self._hear)

    async def _live(self, process: Process) -> None:
        while not await asyncio.to_thread(self._answers):  # noqa: ASYNC110 - it does not call us
            await asyncio.sleep(_LOOK_EVERY_S)
        self._up.set()
        await process.wait()

    def _cause(self, _process: Process, returncode: int | None) -> PackError:
        """Return what it ended with, what it said at last, and what is to be done about it."""
        *before, last = self._lines or ("nothing",)
        if last.startswith(HINT):
            said, hint = " | ".join(before), last.removeprefix(HINT)
        else:
            one = self._program
            said = " | ".join((*before, last))
            hint = suspected(said, told([(one.role, one.directory)]).get(one.role, OFF))
        message = f"{fate(returncode)}; last output: {said}"
        return ServeError(message, subject=self._whose, hint=hint)

    def _hear(self, line: str) -> None:
        _log.debug("%s: %s", self._program.role, line)


class SupervisedProgram(Supervised[ProgramLife]):
    """A program that is kept running.

    Args:
        program: how it is started.
        answers: asks it, and returns whether it answers; may block.
        note: hears what goes wrong, a line for people.
    """

    def __init__(
        self, program: Program, answers: Callable[[], bool], note: Callable[[str], None]
    ) -> None:
        self.up = asyncio.Event()
        """Set when it first answered."""
        super().__init__(self.up, RESTS_S)
        self.program = program
        self._answers = answers
        self._note = note

    def _begin(self) -> ProgramLife:
        return ProgramLife(self.program, self._answers, self.up)

    def _tell_rest(self, cause: str, rest_s: float) -> None:
        self._note(f"! {self.program.role} {cause}; restarting in {rest_s:g} s")


class UpstreamProcesses:
    """One run of `llava.serve`; use it as a context manager, whose end ends the processes.

    Args:
        programs: in their order.
        ports: where they listen.
        model: the worker's name for the model.
        token: of the start.
        note: hears which one is started, and what goes wrong later.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        ports: Ports,
        model: str,
        *,
        token: str,
        note: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._ports, self._model, self._token, self._note = ports, model, token, note
        self._chain = [
            SupervisedProgram(one, functools.partial(self._answers, one.role), note)
            for one in programs
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for one in self._chain:
            one.program.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(one.stop() for one in self._chain))
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def start(self) -> None:
        """Start the three, each when the one before answers.

        Raises:
            ServeError: one ended; with its last words.
        """
        for one in self._chain:
            self._note(f"starting {one.program.role}")
            running = asyncio.create_task(one.run())
            self._tasks.append(running)
            answering = asyncio.create_task(one.up.wait())
            try:
                await asyncio.wait({running, answering}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                answering.cancel()
            if running.done():
                running.result()

    def kill(self) -> None:
        """Kill the processes, and wait for nothing."""
        for one in self._chain:
            one.kill()

    def standings(self) -> Mapping[str, Standing]:
        """Return which fence stands around each program, as far as they have told."""
        return told((one.program.role, one.program.directory) for one in self._chain)

    def _answers(self, role: Role) -> bool:
        with UpstreamClient(self._ports.url("controller"), self._token) as client:
            with suppress(ServeError):
                listed = client.models()
                if role == "page":
                    return client.page(self._ports.url("page")) == (200, True)
                # a worker registers before it listens, and a refresh forgets it until it does
                return role == "controller" or self._model in listed
            return False


def free_ports(page: int) -> Ports:
    """Return ports for the three: the page's as given, 0 for a free one; the others free."""
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for each in (one, two, three):
            each.bind((LOOPBACK, 0))
        found = [each.getsockname()[1] for each in (one, two, three)]
    return Ports(controller=found[0], worker=found[1], page=page or found[2])
