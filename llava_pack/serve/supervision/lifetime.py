"""One process from its start to its end: heard, lived with, and nothing left of it."""

import asyncio
import contextlib
from asyncio.subprocess import Process
from collections.abc import Callable, Coroutine
from typing import Any

from llava_pack.format.errors import ServeError
from llava_pack.serve.subprocesses import end

_LAST_WORDS_S = 1.0


class LostError(ServeError):
    """A process cannot be reached any more; why is known when it has ended."""


async def live_with(
    process: Process, living: Coroutine[Any, Any, None], hear: Callable[[str], None]
) -> int | None:
    """Do something with a process until either has ended; nothing of the process is left.

    Args:
        process: with a stderr that can be read.
        living: what is done; it raises `LostError` where the end of the process says more.
        hear: called with each line of its stderr.

    Returns:
        What it ended with by itself; None where it had not ended.

    Raises:
        PackError: what `living` raised.
    """
    tasks = [
        asyncio.create_task(living),
        asyncio.create_task(process.wait()),
        asyncio.create_task(_read_lines(process, hear)),
    ]
    try:
        await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(tasks, timeout=_LAST_WORDS_S)
        if tasks[0].done():
            with contextlib.suppress(LostError):
                tasks[0].result()
        return process.returncode
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await end(process)


async def _read_lines(process: Process, hear: Callable[[str], None]) -> None:
    stream = process.stderr
    while stream is not None:
        try:
            line = await stream.readline()
        except ValueError:  # longer than a line is: it is dropped, and the next one read
            continue
        if not line:
            return
        hear(line.decode(errors="replace").rstrip())
