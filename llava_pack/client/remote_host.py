"""A server as scripts see it, however ssh gets there: run one, follow one, talk with one.

Scripts are POSIX sh. A login shell may be any shell (fish, csh): it is given one fixed line, and
the script, its arguments and its input come over stdin, never on a command line that others see.
"""

import queue
import shlex
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from llava_pack.client.script_stream import STDERR, STDOUT, Stream
from llava_pack.client.ssh_login import Login, SshProcess
from llava_pack.client.waiting import next_of, wait_for
from llava_pack.format.errors import NetworkError

RUN_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Completed:
    """How a script ended on the server, and what it printed."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def last_words(self) -> str:
        """The last line of stderr, else of stdout; empty where there is none."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return lines[-1].decode("utf-8", "replace").strip() if lines else ""


class ScriptWire(Protocol):
    """What a transport knows of one running script."""

    stdin: BinaryIO

    def read(self, stream: Stream) -> bytes:
        """Return the next bytes of the script's stdout (1) or stderr (2), none at the end."""

    def close_input(self) -> None:
        """Let the script read the end of its input."""

    def finish(self) -> int:
        """Return the script's exit code, once both streams have ended.

        Raises:
            NetworkError: the connection broke before there was one.
        """

    def abandon(self) -> None:
        """Leave the script to itself, whatever it does; both streams end."""


class RemoteScript:
    """A script that runs on the server."""

    def __init__(self, wire: ScriptWire) -> None:
        self._wire = wire
        self._events: queue.Queue[tuple[Stream, bytes]] = queue.Queue()
        self._kept = {STDOUT: bytearray(), STDERR: bytearray()}
        self._open = 2
        self._finished = False
        for stream in (STDOUT, STDERR):
            threading.Thread(target=self._pump, args=(stream,), daemon=True).start()

    def write(self, data: "bytes | memoryview") -> None:
        """Send bytes to the script's stdin.

        Raises:
            BrokenPipeError: nobody reads them any more; `finish` says why.
        """
        try:
            self._wire.stdin.write(data)
            self._wire.stdin.flush()
        except OSError as error:  # EINVAL on Windows
            raise BrokenPipeError from error

    def close_input(self) -> None:
        """Let the script read the end of its input."""
        with suppress(OSError):
            self._wire.close_input()

    def lines(self) -> Iterator[str]:
        """Yield what the script prints on stdout, a line at a time, until it ends."""
        rest = b""
        for stream, data in self._arriving(None):
            if stream == STDOUT:
                *whole, rest = (rest + data).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in whole)
        if rest:
            yield rest.decode("utf-8", "replace")

    def finish(
        self, on_line: Callable[[str], None] | None = None, timeout_s: float | None = None
    ) -> Completed:
        """Return how the script ended, once it has.

        Args:
            on_line: told each line as it comes, of stdout and of stderr.
            timeout_s: after which the script is abandoned; None waits.

        Raises:
            NetworkError: the connection broke, or the time is over.
        """
        rest = {STDOUT: b"", STDERR: b""}
        for stream, data in self._arriving(timeout_s):
            *whole, rest[stream] = (rest[stream] + data).split(b"\n")
            for line in whole:
                _tell(on_line, line)
        for line in rest.values():
            if line:
                _tell(on_line, line)
        self._finished = True
        code = self._wire.finish()
        out, err = (bytes(self._kept[stream]) for stream in (STDOUT, STDERR))
        return Completed(code=code, stdout=out, stderr=err)

    def leave(self) -> None:
        """Abandon the script, unless `finish` came back."""
        if not self._finished:
            self._wire.abandon()

    def _arriving(self, timeout_s: float | None) -> Iterator[tuple[Stream, bytes]]:
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while self._open:
            left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            try:
                stream, data = next_of(self._events, left_s)
            except queue.Empty:
                self._wire.abandon()
                raise NetworkError(
                    f"no answer within {timeout_s:g} s",
                    subject="hop: server",
                    hint="is the server busy? Run the same command again",
                ) from None
            if data:
                self._kept[stream] += data
                yield stream, data
            else:
                self._open -= 1

    def _pump(self, stream: Stream) -> None:
        data = b"-"
        while data:
            try:
                data = self._wire.read(stream)
            except (OSError, ValueError):  # it was closed under us
                data = b""
            self._events.put((stream, data))


class RemoteHost(ABC):
    """A server that scripts are run on, through one connection of the person's own ssh.

    Args:
        login: how to get there.
        say: told each line that ssh prints until the login is done: a banner may ask for something.
    """

    def __init__(self, login: Login, say: Callable[[str], None] | None = None) -> None:
        self.login = login
        self.say = say

    def run(
        self, script: str, *args: str, data: bytes = b"", timeout_s: float | None = RUN_S
    ) -> Completed:
        """Return how a script ended; a code other than 0 is no error here.

        Args:
            script: POSIX sh; `$1`… are the arguments.
            args: passed as they are, whatever is in them.
            data: its stdin.
            timeout_s: after which it is abandoned; None waits.

        Raises:
            NetworkError: the server cannot be reached, or does not answer; the hop is named.
        """
        with self._fed(script, args, data) as session:
            return session.finish(None, timeout_s)

    def stream(
        self, script: str, *args: str, on_line: Callable[[str], None], data: bytes = b""
    ) -> Completed:
        """Return how a long script ended; `on_line` is told what it prints, as it comes.

        Raises:
            NetworkError: the server cannot be reached, or the connection broke.
        """
        with self._fed(script, args, data) as session:
            return session.finish(on_line)

    @contextmanager
    def channel(self, script: str, *args: str) -> Iterator[RemoteScript]:
        """Talk with a script during the block: it reads as much as it is sent, and answers.

        It must know by itself where its input ends: it may never read the end of a file.

        Raises:
            NetworkError: the server cannot be reached, or the connection broke.
        """
        session = RemoteScript(self._start(_prologue(script, args), None))
        try:
            yield session
        finally:
            session.leave()

    @contextmanager
    def _fed(self, script: str, args: tuple[str, ...], data: bytes) -> Iterator[RemoteScript]:
        session = RemoteScript(self._start(_prologue(script, args), len(data)))
        feeding = threading.Thread(target=_feed, args=(session, data), daemon=True)
        feeding.start()
        try:
            yield session
        finally:
            session.leave()
            wait_for(feeding)

    @abstractmethod
    def connect(self) -> None:
        """Log in, anew where a connection was there; the person may be asked for a password.

        Raises:
            NetworkError: the server cannot be logged in to; the hop is named.
        """

    @abstractmethod
    def close(self) -> None:
        """End the connection."""

    @abstractmethod
    def forward(self, local_port: int, target: str) -> AbstractContextManager[SshProcess]:
        """Forward a port of this laptop during the block, and give the ssh that does it.

        Raises:
            NetworkError: it cannot be forwarded; the hop is named.
        """

    @abstractmethod
    def _start(self, prologue: bytes, input_bytes: int | None) -> ScriptWire:
        """Start a script.

        Args:
            prologue: the script with its arguments.
            input_bytes: how long its input is; None where the script knows.
        """


def _prologue(script: str, args: tuple[str, ...]) -> bytes:
    return f"set -- {shlex.join(args)}\n{script}".encode()


def _feed(session: RemoteScript, data: bytes) -> None:
    with suppress(OSError):  # a script may end without reading all of it
        if data:
            session.write(data)
    session.close_input()


def _tell(on_line: Callable[[str], None] | None, line: bytes) -> None:
    if on_line is not None:
        on_line(line.decode("utf-8", "replace").rstrip("\r"))
