"""One ssh session for everything, where OpenSSH cannot share a connection (on Windows).

A loop in POSIX sh reads commands from the session's stdin: a script, then as much input as was
announced. It prints a mark before and after what the script prints. Scripts run one after another.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

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
    stop,
)
from llava_pack.client.tunnel_diagnosis import blame_ssh
from llava_pack.client.waiting import UNTIL_CTRL_C_S
from llava_pack.format.errors import NetworkError

if TYPE_CHECKING:
    import subprocess

_SSH_FAILED = 255
_KEEP = ("-o", "ExitOnForwardFailure=yes")
# What a script leaves unread is discarded up to the line with its nonce, which is sent once it has
# ended; dd reads exactly as much as it is told, and so does `read` from a pipe.
_HELPER = r"""
take() {
    blocks=$(($1 / 65536)) rest=$(($1 % 65536))
    [ "$blocks" = 0 ] || dd bs=65536 count="$blocks" iflag=fullblock 2>/dev/null
    [ "$rest" = 0 ] || dd bs="$rest" count=1 iflag=fullblock 2>/dev/null
}
while read -r nonce script input; do
    text=$(take "$script")
    echo "$nonce begin"
    echo "$nonce begin" >&2
    if [ "$input" = open ]; then
        (eval "$text")
    else
        take "$input" | (eval "$text")
    fi
    code=$?
    echo "$nonce end $code" >&2
    echo "$nonce end $code"
    while IFS= read -r line && [ "$line" != "$nonce" ]; do :; done
done
"""


class RemoteHelper(RemoteHost):
    """A server behind one session, in which a helper runs one script after another."""

    def __init__(self, login: Login, say: Callable[[str], None] | None = None) -> None:
        super().__init__(login, say)
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()
        self._answered = False

    def connect(self) -> None:
        """Log in; returns once the helper has answered."""
        self.close()
        helper = _HELPER.encode()
        command = self.login.command("-T", "-S", "none", "-o", "RemoteCommand=none")
        self._process = started([*command, bootstrap(len(helper))])
        self._turn = threading.Lock()
        self._answered = False
        with suppress(OSError):  # the first script says why it is not read
            pipes(self._process).stdin.write(helper)
        try:
            # as long as it takes: a person may be comparing a host key
            if self.run('echo "$1"', "here", timeout_s=None).stdout != b"here\n":
                raise no_shell("dd there cannot read whole blocks (iflag=fullblock)")
        except NetworkError:
            self.close()
            raise

    def close(self) -> None:
        """End the session, and what runs in it."""
        if self._process is not None:
            stop(self._process)
            self._process = None

    @contextmanager
    def forward(self, local_port: int, target: str) -> Iterator[SshProcess]:
        """Forward a port by an ssh of its own: it may ask for the password again."""
        words = ("-L", f"127.0.0.1:{local_port}:{target}")
        process = SshProcess(self.login.command("-N", "-T", "-S", "none", *_KEEP, *words))
        try:
            yield process
        finally:
            process.stop()

    def _start(self, prologue: bytes, input_bytes: int | None) -> ScriptWire:
        if self._process is None:
            raise NetworkError("not connected", subject=self.login.destination)
        first = not self._answered
        self._answered = True
        wire = _HelpedWire(self, self._process, self._turn, first=first)
        wire.tell(prologue, input_bytes)
        return wire


class _HelpedWire:
    """One script in the helper's session: what stands between two marks is its own."""

    def __init__(
        self,
        host: RemoteHelper,
        process: "subprocess.Popen[bytes]",
        turn: threading.Lock,
        *,
        first: bool,
    ) -> None:
        while not turn.acquire(timeout=UNTIL_CTRL_C_S):
            pass
        self._turn = turn
        self._host = host
        self._over = False
        self._first = first
        self._process = process
        self._nonce = new_nonce()
        self.stdin, stdout, stderr = pipes(process)
        self._streams: dict[Stream, Marked] = {
            1: Marked(stdout, self._nonce, last=True),
            2: Marked(stderr, self._nonce, last=True, say=host.say if first else None),
        }

    def tell(self, prologue: bytes, input_bytes: int | None) -> None:
        size = "open" if input_bytes is None else str(input_bytes)
        with suppress(OSError, ValueError):  # `finish` says why it is not read
            self.stdin.write(f"{self._nonce} {len(prologue)} {size}\n".encode() + prologue)
            self.stdin.flush()

    def read(self, stream: Stream) -> bytes:
        return self._streams[stream].read()

    def close_input(self) -> None:
        """Do nothing: the helper knows how long the input is."""

    def finish(self) -> int:
        code = self._streams[1].code
        try:
            if code is None:
                raise self._lost()
            self.stdin.write(f"\n{self._nonce}\n".encode())
            self.stdin.flush()
        except OSError:
            raise self._lost() from None
        finally:
            self._end()
        return code

    def abandon(self) -> None:
        """End the session: a script that hangs would keep it from the next one."""
        if not self._over:
            self._host.close()
            self._end()

    def _end(self) -> None:
        self._over = True
        self._turn.release()

    def _lost(self) -> NetworkError:
        """Return why there is no code: what ssh says."""
        code = self._process.wait()
        said = told_by(self._streams)
        if not self._first:
            return broken(said)
        return error_of(blame_ssh(said)) if code == _SSH_FAILED else no_shell(said)
