"""One process from its start to its end: heard, lived with, and nothing left of it."""

import asyncio
import contextlib
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from llava_pack.format.errors import ServeError
from llava_pack.serve.subprocesses import cause_of_death, end, kill

_LAST_WORDS_S = 1.0


class LostError(ServeError):
    """A process cannot be reached any more; why is known when it has ended."""


class ProcessLife:
    """One life of a process, which may be ended at any time, also before it was started.

    Args:
        whose: process it is, for errors: `its engine` or `the gateway`.
        kept_lines: how many of the last lines of its stderr are kept.
        subject: name of its model, for errors.
    """

    def __init__(self, whose: str, kept_lines: int, subject: str = "") -> None:
        self._whose = whose
        self._subject = subject
        self._lines: deque[str] = deque(maxlen=kept_lines)
        self._process: Process | None = None
        self._over = False

    def kill(self) -> None:
        """Kill the process, and wait for nothing."""
        self._over = True
        if self._process is not None:
            kill(self._process)

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
            kill(process)
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
        raise cause_of_death(
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
            self._lines.append(line)
            hear(line)
