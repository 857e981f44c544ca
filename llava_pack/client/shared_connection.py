"""One connection that OpenSSH shares (ControlMaster): where its client can, on Linux and macOS.

The connection lives as long as a `cat` on the server that reads from us: whatever ends this
process, no connection stays open behind it.

Source: ssh(1) -M, -O, -S; ssh_config(5) ControlMaster, ControlPath, ControlPersist.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llava_pack.client.remote_host import RemoteHost, ScriptWire
from llava_pack.client.script_stream import Marked, Stream, bootstrap, new_nonce, told_by
from llava_pack.client.ssh_login import (
    Login,
    SshProcess,
    broken,
    error_of,
    no_shell,
    pipes,
    started,
)
from llava_pack.client.tunnel_diagnosis import blame_ssh
from llava_pack.format.errors import NetworkError

_SOCKET_BYTES = 104 - 18
"""Longest path of a socket (macOS), less what ssh appends to it for a moment."""
_SSH_FAILED = 255
_NOTICE_S = 2.0


class SharedConnection(RemoteHost):
    """A server behind one master connection; scripts run beside each other on it."""

    def __init__(self, login: Login, say: Callable[[str], None] | None = None) -> None:
        super().__init__(login, say)
        self._folder: Path | None = None
        self._master: SshProcess | None = None

    def connect(self) -> None:
        """Log in; returns once a shell has answered."""
        self.close()
        folder = Path(tempfile.mkdtemp(prefix="lp-"))
        if len(str(folder)) + 2 > _SOCKET_BYTES:
            folder.rmdir()
            folder = Path(tempfile.mkdtemp(prefix="lp-", dir="/tmp"))  # mode 0700
        self._folder = folder
        nonce = new_nonce()
        options = ("ControlPersist=no", "RemoteCommand=none")
        master = SshProcess(
            [
                *self.login.command("-T", "-M", "-S", str(folder / "s"), *_told(options)),
                f"exec sh -c 'echo {nonce}; exec cat >/dev/null'",
            ],
            talking=True,
            say=self.say,
        )
        self._master = master
        stdout = master.process.stdout
        before = []
        for line in stdout or ():
            if line.strip() == nonce.encode():
                master.logged_in()
                return
            before.append(line.decode("utf-8", "replace"))
        master.ends_within(_NOTICE_S)
        error = _refused(master, before)
        self.close()
        raise error

    def close(self) -> None:
        """End the connection, and what runs on it."""
        if self._master is not None:
            self._master.stop()
            self._master = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    @contextmanager
    def forward(self, local_port: int, target: str) -> Iterator[SshProcess]:
        """Forward a port through the connection that is there."""
        master = self._living()
        words = ("-L", f"127.0.0.1:{local_port}:{target}")
        code, said = _asked(self._command("-O", "forward", *words))
        if code != 0:
            raise error_of(blame_ssh(said + master.said(0)))
        try:
            yield master
        finally:
            if self._folder is not None:
                _asked(self._command("-O", "cancel", *words))

    def _start(self, prologue: bytes, input_bytes: int | None) -> ScriptWire:  # noqa: ARG002
        nonce = new_nonce()
        script = f"echo '{nonce} begin'; echo '{nonce} begin' >&2\n".encode() + prologue
        master = self._living()
        wire = _SharedWire([*self._command("-T"), bootstrap(len(script))], nonce, master)
        wire.tell(script)
        return wire

    def _living(self) -> SshProcess:
        """Return the master.

        Raises:
            NetworkError: it has ended.
        """
        if self._master is None:
            raise NetworkError("not connected", subject=self.login.destination)
        if self._master.ended:
            raise broken(self._master.said())
        return self._master

    def _command(self, *arguments: str) -> list[str]:
        """Return a command that uses the connection, and never opens one of its own."""
        options = ("ControlMaster=no", "ProxyCommand=false", "RemoteCommand=none")
        words = ["ssh", "-S", f"{self._folder}/s", *_told(options), *arguments]
        return [*words, "--", self.login.destination]


class _SharedWire:
    """One script on the shared connection: an ssh of its own that hands its pipes to the master."""

    def __init__(self, command: list[str], nonce: str, master: SshProcess) -> None:
        self._process = started(command)
        self._master = master
        self.stdin, stdout, stderr = pipes(self._process)
        self._streams: dict[Stream, Marked] = {
            1: Marked(stdout, nonce, last=False),
            2: Marked(stderr, nonce, last=False),
        }

    def tell(self, script: bytes) -> None:
        with suppress(OSError):  # `finish` says why it is not read
            self.stdin.write(script)
            self.stdin.flush()

    def read(self, stream: Stream) -> bytes:
        return self._streams[stream].read()  # which is closed at its end

    def close_input(self) -> None:
        self.stdin.close()

    def finish(self) -> int:
        self._end()
        code = self._process.wait()
        begun = self._streams[1].begun
        if begun and code != _SSH_FAILED:
            return code
        if self._master.ends_within(_NOTICE_S):
            raise broken(self._master.said())
        if begun:
            return code
        raise no_shell(told_by(self._streams))

    def abandon(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._end()

    def _end(self) -> None:
        """Close our end; the master holds the others as long as the script runs."""
        with suppress(OSError):
            self.stdin.close()


def _told(options: tuple[str, ...]) -> list[str]:
    return [part for option in options for part in ("-o", option)]


def _asked(command: list[str]) -> tuple[int, str]:
    """Return how a request to the master ended, and what was said."""
    process = SshProcess(command)
    code = process.wait()
    said = process.said()
    process.stop()
    return code, said


def _refused(master: SshProcess, before: list[str]) -> NetworkError:
    """Return why no shell answered: what ssh says, or what ran in its place."""
    code = master.process.poll()
    if code in {_SSH_FAILED, None}:
        return master.complaint()
    return no_shell("".join(before) + master.said())
