"""The two ways in which scripts reach a server, for tests that hold for both."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from llava_pack.client.remote_helper import RemoteHelper
from llava_pack.client.remote_host import RemoteHost
from llava_pack.client.shared_connection import SharedConnection
from llava_pack.client.ssh import Login
from tests.support.sshd import LoopbackSshd

TRANSPORTS: Mapping[str, Callable[[Login, Callable[[str], None] | None], RemoteHost]] = {
    "shared": SharedConnection,
    "helper": RemoteHelper,
}


def login_to(sshd: LoopbackSshd, *options: str, port: int | None = None) -> Login:
    """Return the login to a loopback sshd."""
    return Login(
        destination=f"{sshd.user}@127.0.0.1",
        port=port or sshd.port,
        options=(*options, *sshd.options),
    )


@contextmanager
def reached(
    kind: str, login: Login, say: Callable[[str], None] | None = None
) -> Iterator[RemoteHost]:
    """Connect in one of the two ways."""
    host = TRANSPORTS[kind](login, say)
    try:
        host.connect()
        yield host
    finally:
        host.close()
