"""A tunnel from this laptop to a server, through the person's own ssh, checked hop by hop."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llava_pack.client.discovery import connection
from llava_pack.client.ssh import RemoteHost
from llava_pack.client.ssh_login import SshProcess, error_of
from llava_pack.client.tunnel_diagnosis import Blame, blame_answer
from llava_pack.client.waiting import UNTIL_CTRL_C_S
from llava_pack.format.errors import ServeError
from llava_pack.serve.origin import start_command

_OPEN_S = 60.0
_ANSWER_S = 10.0
_LOOK_EVERY_S = 0.1
# Windows lets two programs have one port, unless one of them says this.
_TAKES: int = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
# Where an installation is; the last one is what an administrator put on the PATH.
_ASK = (
    'for p in "${LLAVA_PACK_PREFIX:-/nowhere}/bin/llava-pack" '
    '"${XDG_DATA_HOME:-$HOME/.local/share}/llava-pack/bin/llava-pack" '
    "/opt/llava-pack/bin/llava-pack llava-pack; do "
    'command -v "$p" >/dev/null 2>&1 && exec "$p" tunnel --json; done; exit 127'
)


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


def ask_server(host: RemoteHost) -> Remote:
    """Return what the llava-pack over there says of the server that runs there.

    Raises:
        NetworkError: the server does not answer.
        ServeError: it has no llava-pack, or no server is running there.
    """
    done = host.run(_ASK)
    if done.code == 127:
        raise ServeError(
            "llava-pack was not found on the server",
            subject=host.login.destination,
            hint="pass --port, and --token-file if the server requires a token",
        )
    try:
        told = json.loads(done.stdout.strip().splitlines()[-1])
        return Remote(target=told["target"], token=told["token"], bundle_id=told["bundle_id"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        why = done.stderr.decode("utf-8", "replace").strip().splitlines()[-2:]
        start = start_command(root=host.login.destination.startswith("root@"))
        raise ServeError(
            "no server is running there" + (f": {why[0]}" if why else ""),
            subject=host.login.destination,
            hint=f"on the server: {start}",
        ) from error


def free_port(wanted: int, *, exactly: bool) -> int:
    """Return a free port of this laptop: the wanted one, else, if that may be, the next.

    Raises:
        NetworkError: the wanted one is taken and no other will do.
    """
    for port in range(wanted, wanted + (1 if exactly else 100)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, _TAKES, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    why = f"port {wanted} on this laptop is in use"
    raise error_of(Blame(hop="laptop", why=why, fix="leave out --local-port, or use another"))


@contextmanager
def opened(host: RemoteHost, remote: Remote, local_port: int) -> Iterator["Passage"]:
    """Keep a tunnel open during the block.

    Raises:
        NetworkError: it cannot be opened; the message names the hop.
    """
    with host.forward(local_port, remote.target) as process:
        passage = Passage(process, local_port)
        passage.wait_open()
        yield passage


class Passage:
    """An ssh process that forwards a port of this laptop."""

    def __init__(self, process: SshProcess, local_port: int) -> None:
        self._process = process
        self.port = local_port
        """On this laptop."""

    def wait_open(self) -> None:
        """Wait until the laptop's port answers.

        Raises:
            NetworkError: ssh has ended, or takes too long.
        """
        until_s = time.monotonic() + _OPEN_S
        while time.monotonic() < until_s:
            if self._process.ended:
                raise self._process.complaint()
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(_LOOK_EVERY_S)
        raise self._process.complaint()

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
            raise self._process.complaint() from None
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
        while not self._process.ends_within(UNTIL_CTRL_C_S):
            pass
        if self._process.wait() != 0:
            raise self._process.complaint()


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
