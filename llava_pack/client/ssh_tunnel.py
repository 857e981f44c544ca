"""A tunnel from this laptop to a server, through the person's own ssh, checked hop by hop."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llava_pack.client.discovery import connection
from llava_pack.client.tunnel_diagnosis import Blame, blame_answer, blame_ssh
from llava_pack.format.errors import FetchError, NetworkError, ServeError, UsageError

_ASK_S = 120.0
_OPEN_S = 60.0
_ANSWER_S = 10.0
_LAST_WORDS_S = 2.0
_LOOK_EVERY_S = 0.1
# Where an installation is; the last one is what an administrator put on the PATH.
_ASK = (
    'for p in "${LLAVA_PACK_PREFIX:-/nowhere}/bin/llava-pack" '
    '"${XDG_DATA_HOME:-$HOME/.local/share}/llava-pack/bin/llava-pack" '
    "/opt/llava-pack/bin/llava-pack llava-pack; do "
    'command -v "$p" >/dev/null 2>&1 && exec "$p" tunnel --json; done; exit 127'
)
_KEEP = ("-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=30")


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
        if self.destination.startswith("-"):
            raise UsageError("expected USER@HOST", subject=self.destination)
        command = ["ssh", *arguments]
        command += ["-p", str(self.port)] if self.port is not None else []
        command += ["-J", self.jump] if self.jump is not None else []
        command += [part for option in self.options for part in ("-o", option)]
        return [*command, "--", self.destination]


@dataclass(frozen=True, kw_only=True)
class Remote:
    """What is reached on the server."""

    target: str
    """`127.0.0.1:7860`, or the path of a Unix socket."""
    token: str
    bundle_id: str | None

    @property
    def port(self) -> int:
        """The port that is proposed for the laptop."""
        port = self.target.rpartition(":")[2]
        return int(port) if port.isdigit() else 7860


def ask_server(login: Login) -> Remote:
    """Return what the llava-pack over there says of the server that runs there.

    Raises:
        NetworkError: the server cannot be logged in to.
        ServeError: it has no llava-pack, or no server is running there.
    """
    done = _ssh([*login.command("-T"), _ASK])
    if done.returncode == 255:
        raise error_of(blame_ssh(done.stderr))
    if done.returncode == 127:
        raise ServeError(
            "llava-pack was not found on the server",
            subject=login.destination,
            hint="pass --port, and --token-file if the server requires a token",
        )
    try:
        told = json.loads(done.stdout.strip().splitlines()[-1])
        return Remote(target=told["target"], token=told["token"], bundle_id=told["bundle_id"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        why = done.stderr.strip().splitlines()[-2:]
        raise ServeError(
            "no server is running there" + (f": {why[0]}" if why else ""),
            subject=login.destination,
            hint="on the server: llava-pack serve",
        ) from error


def free_port(wanted: int, *, exactly: bool) -> int:
    """Return a free port of this laptop: the wanted one, else, if that may be, the next.

    Raises:
        NetworkError: the wanted one is taken and no other will do.
    """
    for port in range(wanted, wanted + (1 if exactly else 100)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    why = f"port {wanted} on this laptop is in use"
    raise error_of(Blame(hop="laptop", why=why, fix="leave out --local-port, or use another"))


@contextmanager
def opened(login: Login, remote: Remote, local_port: int) -> Iterator["Passage"]:
    """Keep a tunnel open during the block.

    Raises:
        NetworkError: it cannot be opened; the message names the hop.
    """
    forward = f"127.0.0.1:{local_port}:{remote.target}"
    command = login.command("-N", "-T", *_KEEP, "-L", forward)
    try:
        with _spared_ctrl_c() as flags:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                creationflags=flags,
            )
    except FileNotFoundError as error:
        raise _no_ssh() from error
    passage = Passage(process, local_port)
    try:
        passage.wait_open()
        yield passage
    finally:
        process.terminate()
        process.wait()


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


class Passage:
    """An ssh process that forwards, and what it says meanwhile."""

    def __init__(self, process: "subprocess.Popen[str]", local_port: int) -> None:
        self._process = process
        self.port = local_port
        """On this laptop."""
        self._said: list[str] = []
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def wait_open(self) -> None:
        """Wait until the laptop's port answers.

        Raises:
            NetworkError: ssh has ended, or takes too long.
        """
        until_s = time.monotonic() + _OPEN_S
        while time.monotonic() < until_s:
            if self._process.poll() is not None:
                raise error_of(self._complaint())
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(_LOOK_EVERY_S)
        raise error_of(self._complaint())

    def check(self, remote: Remote, expected_id: str | None) -> dict[str, Any]:
        """Return what `/readyz` answers through the tunnel.

        Raises:
            NetworkError: nothing comes back, or the wrong server answers; the message names the
                hop.
        """
        import httpx

        url = f"http://127.0.0.1:{self.port}"
        try:
            with connection(url, token=remote.token, timeout_s=_ANSWER_S) as client:
                answer = client.get("/readyz")
        except httpx.HTTPError:
            raise error_of(self._complaint()) from None
        body = _json(answer.text)
        blame = blame_answer(answer.status_code, body, expected_id or remote.bundle_id)
        if blame is not None:
            raise error_of(blame)
        return dict(body)

    def wait(self) -> None:
        """Wait until the tunnel ends.

        Raises:
            NetworkError: it broke.
        """
        if self._process.wait() != 0:
            raise error_of(self._complaint())

    def _complaint(self) -> Blame:
        """Return the hop that ssh blames, after a moment for its last words."""
        self._listening.join(_LAST_WORDS_S)  # it ends with ssh
        return blame_ssh("".join(self._said), ended=self._process.poll() is not None)

    def _listen(self) -> None:
        stderr = self._process.stderr
        if stderr is not None:
            self._said.extend(stderr)


def error_of(blame: Blame) -> NetworkError:
    """Return the error that names the hop."""
    names = {
        "laptop": "this laptop's port",
        "login": "ssh login",
        "sshd": "sshd's policy",
        "address": "address on the server",
        "server": "server",
    }
    return NetworkError(blame.why, subject=f"hop: {names[blame.hop]}", hint=blame.fix)


def _no_ssh() -> FetchError:
    return FetchError("ssh was not found on this machine", hint="install OpenSSH's client")


def _ssh(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_ASK_S,
        )
    except FileNotFoundError as error:
        raise _no_ssh() from error
    except subprocess.TimeoutExpired as error:
        blame = blame_ssh("Connection timed out")
        raise error_of(blame) from error


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
