"""How the person's own ssh gets to a server, as one value, and one running ssh as one object."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, BinaryIO, NamedTuple, cast

from llava_pack.client.tunnel_diagnosis import Blame, blame_ssh
from llava_pack.format.errors import FetchError, NetworkError, UsageError

_LAST_WORDS_S = 2.0
_DEFAULTS = ("ConnectTimeout=30", "ServerAliveInterval=15", "ServerAliveCountMax=4")
"""What ssh is told unless the person sets it: a silent link is dead after a minute."""


class LoginRefusedError(NetworkError):
    """The server is there and lets nobody in: trying again by itself would not help."""

    kind = NetworkError.kind


@dataclass(frozen=True, kw_only=True)
class Login:
    """How the person's ssh gets to the server."""

    destination: str
    """USER@HOST, or a name of ~/.ssh/config."""
    port: int | None = None
    jump: str | None = None
    options: tuple[str, ...] = ()
    """What ssh is told with -o."""

    def command(self, *arguments: str) -> list[str]:
        """Return the ssh command with arguments before the destination.

        Raises:
            UsageError: the destination would be taken for an option.
        """
        *typed, place = self.typed[1:]
        defaults = [part for option in _DEFAULTS for part in ("-o", option)]
        return ["ssh", *arguments, *typed, *defaults, "--", place]  # the first of each counts

    @property
    def typed(self) -> list[str]:
        """Return the ssh command that a person would type.

        Raises:
            UsageError: the destination would be taken for an option.
        """
        if self.destination.startswith("-"):
            raise UsageError("expected USER@HOST", subject=self.destination)
        command = ["ssh"]
        command += ["-p", str(self.port)] if self.port is not None else []
        command += ["-J", self.jump] if self.jump is not None else []
        command += [part for option in self.options for part in ("-o", option)]
        return [*command, self.destination]

    @property
    def shareable(self) -> bool:
        """Whether one connection may be shared: `-o ControlPath=none` says that it may not."""
        words = {"".join(option.lower().split()).replace("=", "") for option in self.options}
        return not words & {"controlpathnone", "controlmasterno"}


class SshProcess:
    """A running ssh, and what it prints on stderr meanwhile.

    Args:
        command: a list.
        talking: whether its stdin and stdout are pipes.
        say: told each line, until `logged_in`.

    Raises:
        FetchError: there is no ssh on this machine.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        talking: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        ends = subprocess.PIPE if talking else subprocess.DEVNULL
        self.process = started(command, ends)
        self._said: list[str] = []
        self._say = say
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def ends_within(self, seconds: float) -> bool:
        """Say whether it ends within a time."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.ended

    def logged_in(self) -> None:
        """Forget what was printed before the login was done: it explains nothing that comes."""
        self._say = None
        self._said.clear()

    def said(self, wait_s: float = _LAST_WORDS_S) -> str:
        """Return what it printed on stderr, after a moment for its last words."""
        self._listening.join(wait_s)  # it ends with ssh
        return "".join(self._said)

    def wait(self) -> int:
        """Return its exit code, once it has ended."""
        code = self.process.wait()
        self._listening.join(_LAST_WORDS_S)
        return code

    def stop(self) -> None:
        """End it."""
        stop(self.process)

    def complaint(self) -> NetworkError:
        """Return the error that names the hop which ssh blames."""
        return error_of(blame_ssh(self.said(), ended=self.ended))

    def _listen(self) -> None:
        if self.process.stderr is not None:
            for line in self.process.stderr:
                text = line.decode("utf-8", "replace")
                self._said.append(text)
                if (say := self._say) is not None:
                    say(text.rstrip("\r\n"))


def started(command: Sequence[str], ends: int = subprocess.PIPE) -> "subprocess.Popen[bytes]":
    """Return a started ssh whose stderr is a pipe, its stdin and stdout as said.

    Raises:
        FetchError: there is no ssh on this machine.
    """
    try:
        with _spared_ctrl_c() as flags:
            return subprocess.Popen(
                command, stdin=ends, stdout=ends, stderr=subprocess.PIPE, creationflags=flags
            )
    except FileNotFoundError as error:
        raise FetchError(
            "ssh was not found on this machine", hint="install OpenSSH's client"
        ) from error


@contextmanager
def _spared_ctrl_c() -> Iterator[int]:
    """Have a process that is started in the block not see Ctrl-C, which in `chat` stops an answer.

    It keeps the terminal, on which ssh may ask for a password. Yields the flags to start it with.
    """
    if sys.platform == "win32":
        yield subprocess.CREATE_NEW_PROCESS_GROUP
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Pipes(NamedTuple):
    """The ends of an ssh that is talked with."""

    stdin: BinaryIO
    stdout: BinaryIO
    stderr: BinaryIO


def pipes(process: "subprocess.Popen[bytes]") -> Pipes:
    """Return the pipes of a process that was started with all three."""
    return Pipes(
        *(cast("BinaryIO", one) for one in (process.stdin, process.stdout, process.stderr))
    )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process, and close our ends of its pipes.

    Where a thread reads from one, and what the process started holds the other end, it stays open:
    closing it would wait for that thread.
    """
    process.terminate()
    try:
        process.wait(_LAST_WORDS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    until_s = time.monotonic() + _LAST_WORDS_S
    ends = [one for one in (process.stdin, process.stdout, process.stderr) if one is not None]
    closing = [threading.Thread(target=_close, args=(one,), daemon=True) for one in ends]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join(max(0.0, until_s - time.monotonic()))


def _close(pipe: IO[bytes]) -> None:
    with suppress(OSError):  # what was not yet written can go nowhere
        pipe.close()


def broken(said: str) -> NetworkError:
    """Return the error for a connection that was there, and ended.

    Args:
        said: what ssh printed.
    """
    why = "".join(f": {line.strip()}" for line in said.strip().splitlines()[-1:])
    return NetworkError(
        f"the connection broke{why}",
        subject="hop: ssh login",
        hint="run the same command again; it continues where it stopped",
    )


def no_shell(said: str) -> NetworkError:
    """Return the error for a login after which no shell of ours ran.

    Args:
        said: what was printed in its place, by sshd or by what an account has as its shell.
    """
    blame = blame_ssh(said)
    lines = said.strip().splitlines()
    if blame.why.startswith("ssh exited") and lines:
        why = f"the login works, but no shell started there: {lines[-1].strip()}"
        blame = Blame(hop="login", why=why, fix="run the same ssh command by hand")
    return error_of(blame)


def error_of(blame: Blame) -> NetworkError:
    """Return the error that names the hop."""
    names = {
        "laptop": "this laptop's port",
        "login": "ssh login",
        "sshd": "sshd's policy",
        "address": "address on the server",
        "server": "server",
    }
    kind = LoginRefusedError if blame.lasting else NetworkError
    return kind(blame.why, subject=f"hop: {names[blame.hop]}", hint=blame.fix)
