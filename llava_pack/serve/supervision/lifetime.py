"""One process from its start to its end, with nothing left of it; and one that is kept running."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, NoReturn, TypeVar

from llava_pack.format.errors import PackError, ServeError
from llava_pack.profiles.endings import cause_in
from llava_pack.serve.subprocesses import EngineCommand, Process, cause_of_death, end
from llava_pack.serve.supervision.restarts import Restarts

_LAST_WORDS_S = 1.0
_LAST_LINES = 20
_CAUSE_LINES = 400
"""Of an engine of others, whose cause stands far above its last words."""


class LostError(ServeError):
    """A process cannot be reached any more; why is known when it has ended."""


class ProcessLife(ABC):
    """One life of a process, which may be ended at any time, also before it was started.

    Args:
        whose: process it is, for errors: `its engine` or `the gateway`.
        kept_lines: how many of the last lines of its stderr are kept.
        subject: name of its model, for errors.
        secret: what it may write and nobody is to read; empty for nothing.
    """

    def __init__(self, whose: str, kept_lines: int, subject: str = "", *, secret: str = "") -> None:
        self._whose = whose
        self._subject = subject
        self._secret = secret
        self._lines: deque[str] = deque(maxlen=kept_lines)
        self._process: Process | None = None
        self._over = False

    @abstractmethod
    async def run(self) -> None:
        """Start the process, and raise what it ended with.

        Raises:
            PackError: always; nothing of the process is left.
        """

    async def stop(self, *, force: bool) -> None:
        """End the process, at once with `force`."""
        self._over = True
        if self._process is not None:
            await end(self._process, force=force)

    def kill(self) -> None:
        """Kill the process, and wait for nothing."""
        self._over = True
        if self._process is not None:
            self._process.kill()

    async def _live_with(
        self,
        process: Process,
        living: Coroutine[Any, Any, None],
        hear: Callable[[str], None],
    ) -> NoReturn:
        """Do something with a process until either has ended, and raise what it ended with.

        Args:
            process: just started, with a stderr that can be read.
            living: what is done; it raises `LostError` where the end of the process says more.
            hear: called with each line of its stderr, which is kept before.

        Raises:
            PackError: always; nothing of the process is left.
        """
        self._process = process
        if self._over:
            process.kill()
        tasks = [
            asyncio.create_task(living),
            asyncio.create_task(process.wait()),
            asyncio.create_task(self._read_lines(process, hear)),
        ]
        try:
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(tasks, timeout=_LAST_WORDS_S)
            if tasks[0].done():
                with contextlib.suppress(LostError):
                    tasks[0].result()
            returncode = process.returncode
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await end(process)
            self._process = None
        raise self._cause(process, returncode)

    def _cause(self, process: Process, returncode: int | None) -> PackError:
        """Return the error for a process that ended so, or None: that cannot be reached."""
        return cause_of_death(
            self._whose, process.pid, returncode, list(self._lines), subject=self._subject
        )

    async def _read_lines(self, process: Process, hear: Callable[[str], None]) -> None:
        stream = process.stderr
        while stream is not None:
            try:
                data = await stream.readline()
            except ValueError:  # longer than a line is: it is dropped, and the next one read
                continue
            if not data:
                return
            line = data.decode(errors="replace").rstrip()
            line = line.replace(self._secret, "***") if self._secret else line
            self._lines.append(line)
            hear(line)


class EngineProcessLife(ProcessLife):
    """One life of an engine's process, whoever asks the engine.

    Args:
        command: how it is started.
    """

    def __init__(self, command: EngineCommand) -> None:
        self._foreign = command.launch is not None
        kept = _CAUSE_LINES if self._foreign else _LAST_LINES
        super().__init__("its engine", kept, command.name, secret=command.address.key)
        self._command = command
        self._served = False

    def _cause(self, process: Process, returncode: int | None) -> PackError:
        """Return what it ended with: of an engine of others that never served, what it names.

        Nobody told it to end: code 0, which vLLM has when a worker is gone, is a failure too.
        """
        lines = list(self._lines)
        named = self._foreign and not self._served and returncode is not None and returncode >= 0
        error = cause_in(lines, self._subject) if named else None
        return error or cause_of_death(
            self._whose, process.pid, returncode, lines[-_LAST_LINES:], subject=self._subject
        )


Life = TypeVar("Life", bound=ProcessLife)


class Supervised(ABC, Generic[Life]):
    """A process that is kept running: one life after the other, until it is stopped.

    Args:
        up: set when it first could be used. What it ends with before is the start's failure.
        rests_s: how long it rests after each end.
    """

    def __init__(self, up: asyncio.Event, rests_s: tuple[float, ...]) -> None:
        self._up = up
        self._life: Life | None = None
        self._restarts = Restarts(rests_s)
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Keep it running until `stop`.

        Raises:
            PackError: it could not be started the first time.
        """
        while not self._stopping.is_set():
            self._restarts.begin()
            self._life = self._begin()
            try:
                await self._life.run()
            except PackError as error:
                if not (self._up.is_set() or self._stopping.is_set()):
                    raise
                cause = error.message
            finally:
                self._ended()
            if not self._stopping.is_set():
                rest_s = self._restarts.rest_s()
                self._tell_rest(cause, rest_s)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), rest_s)

    async def stop(self, *, force: bool = False) -> None:
        """End the process, at once with `force`; it is not started again."""
        self._stopping.set()
        if self._life is not None:
            await self._life.stop(force=force)

    def kill(self) -> None:
        """Kill the process, and wait for nothing; it is not started again."""
        self._stopping.set()
        if self._life is not None:
            self._life.kill()

    @abstractmethod
    def _begin(self) -> Life:
        """Return the next life."""

    @abstractmethod
    def _tell_rest(self, cause: str, rest_s: float) -> None:
        """Tell why a life ended, and how long it rests before the next one."""

    def _ended(self) -> None:
        """Take note that a life is over, whatever comes next."""
