"""One life of a gateway process: started, told of the models, watched, and why it ended."""

import asyncio
import contextlib
import logging
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_pack.format.errors import ServeError
from llava_pack.serve.care import Care
from llava_pack.serve.feed import (
    BEAT_BYTES,
    REPEAT_EVERY_S,
    TELL_EVERY_S,
    Beat,
    Bulletin,
    Start,
    from_line,
    lines,
    to_line,
)
from llava_pack.serve.subprocesses import (
    Process,
    ProcessCommand,
    dump,
    end,
    ended,
    python_program,
    start,
)
from llava_pack.serve.supervision.heartbeat import Heartbeat
from llava_pack.serve.supervision.lifetime import LostError, ProcessLife

_log = logging.getLogger(__name__)
_CLOSE_S = 3.0
"""How long it may take to close its connections: what runs has had its time before."""
_LAST_LINES = 200
_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "TZ")

GATEWAY_PROGRAM = python_program("llava_pack.serve.gateway.process")


@dataclass(frozen=True, kw_only=True)
class GatewayPlan:
    """How gateways of a run are started, one after the other."""

    listening: socket.socket
    """Bound; it stays open here, so that who connects between two gateways only waits."""
    directory: Path
    """Where it stands: empty, so that nothing is served by accident."""
    environment: Mapping[str, str]
    """The whole environment of the process."""
    care: Care
    """How it is looked after."""
    argv: tuple[str, ...] = GATEWAY_PROGRAM
    """The program; it is given the numbers of two descriptors: to us, and where it listens."""


def gateway_environment(environment: Mapping[str, str], temporary: Path) -> dict[str, str]:
    """Return the environment of a gateway: a fixed list, and what keeps libraries quiet.

    Args:
        environment: of this process.
        temporary: where anything may be written.

    >>> sorted(gateway_environment({"PATH": "/bin", "SECRET": "x"}, Path("t")))[-3:]
    ['PATH', 'TMPDIR', 'TRANSFORMERS_OFFLINE']
    """
    kept = {name: environment[name] for name in _KEPT if name in environment}
    return {
        **kept,
        "HF_HUB_OFFLINE": "1",
        "HOME": str(temporary),
        "TMPDIR": str(temporary),
        "TRANSFORMERS_OFFLINE": "1",
    }


class GatewayLife(ProcessLife):
    """One process of the gateway.

    Args:
        plan: how it is started.
        settings: how it answers.
        bulletin: returns how the models stand now.
        hear: called with every sign of life, on the event loop; must not block.
    """

    def __init__(
        self,
        plan: GatewayPlan,
        settings: Start,
        bulletin: Callable[[], Bulletin],
        hear: Callable[[Beat], None],
    ) -> None:
        super().__init__("the gateway", _LAST_LINES)
        self._plan = plan
        self._settings = settings
        self._bulletin = bulletin
        self._hear = hear
        self._due = asyncio.Event()
        self._heart = Heartbeat(plan.care.starting_s)

    @property
    def stalled(self) -> bool:
        """Return whether it gives no sign of life."""
        return self._heart.stalled

    async def run(self) -> None:
        """Start the process, watch it, and raise what it ended with.

        Raises:
            PackError: always; nothing of the process is left.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = await start(self._program(theirs), "the gateway")
            theirs.close()
            await self._live_with(process, self._live(process, ours), _pass_on)

    def changed(self) -> None:
        """Tell it soon how the models stand."""
        self._due.set()

    async def stop(self, *, force: bool) -> None:
        """End the process: it was told to by its bulletin, unless `force`."""
        self._over = True
        if (process := self._process) is not None:
            if not force:
                self.changed()
                await ended(process, _CLOSE_S)
            await end(process, force=True)

    def last_words(self) -> str:
        """Return what it last wrote on its stderr: where it hung, or what was wrong."""
        return "\n".join(self._lines)

    def _program(self, channel: socket.socket) -> ProcessCommand:
        descriptors = (channel.fileno(), self._plan.listening.fileno())
        return ProcessCommand(
            argv=(*self._plan.argv, *(str(number) for number in descriptors)),
            environment=self._plan.environment,
            directory=self._plan.directory,
            descriptors=descriptors,
        )

    async def _live(self, process: Process, channel: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=channel, limit=BEAT_BYTES)
        telling = asyncio.create_task(self._tell(writer))
        watching = asyncio.create_task(self._watch())
        hearing = asyncio.create_task(self._listen(reader))
        tasks = {telling, watching, hearing}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if watching in done:
                hearing.cancel()  # a heartbeat of one that wakes up to be dumped comes too late
                await dump(process)
                raise ServeError(
                    f"the gateway, process {process.pid}, hung: no heartbeat for "
                    f"{self._heart.silent_s:.0f} s"
                )
            for task in done:
                task.result()
            raise LostError("the connection was lost")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.transport.abort()  # what it was still to be told is of no use

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        """Tell what changed; one that does not listen is told nothing more until it does."""
        with contextlib.suppress(OSError):
            writer.write(to_line(self._settings))
            told, told_s = None, 0.0
            while True:
                self._due.clear()
                bulletin, now_s = self._bulletin(), time.monotonic()
                if bulletin != told or now_s - told_s > REPEAT_EVERY_S:
                    told, told_s = bulletin, now_s
                    writer.write(to_line(bulletin))
                    await writer.drain()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._due.wait(), TELL_EVERY_S)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        async for line in lines(reader):
            beat = from_line(Beat, line)
            if beat.listening:
                self._heart.bound_s = self._plan.care.silent_s
                self._heart.heard()
            self._hear(beat)

    async def _watch(self) -> None:
        """Look for signs of life, until there was none for too long."""
        while not self._heart.stalled:
            await asyncio.sleep(TELL_EVERY_S)
            self._heart.look()


def _pass_on(line: str) -> None:
    """Pass on a line of its stderr: the log has it already, or will."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
