"""The person's own ssh as one connection to a server: a password is asked once.

with connected(Login(destination="ada@gpu01", port=30022)) as host:
    done = host.run('uname -a; echo "$1"', "any text, passed as it is")
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llava_pack.client.remote_helper import RemoteHelper
from llava_pack.client.remote_host import Completed, RemoteHost, RemoteScript
from llava_pack.client.shared_connection import SharedConnection
from llava_pack.client.ssh_login import Login

__all__ = ["Completed", "Login", "RemoteHost", "RemoteScript", "connected", "remote_host"]


def remote_host(login: Login, say: Callable[[str], None] | None = None) -> RemoteHost:
    """Return the server, not yet connected: behind a shared connection where OpenSSH can share."""
    shares = os.name != "nt" and login.shareable
    return SharedConnection(login, say) if shares else RemoteHelper(login, say)


@contextmanager
def connected(login: Login, say: Callable[[str], None] | None = None) -> Iterator[RemoteHost]:
    """Log in, and keep the connection during the block.

    Args:
        login: how to get there.
        say: told each line that ssh prints until the login is done: a banner may ask for something.

    Raises:
        NetworkError: the server cannot be logged in to; the hop is named.
        FetchError: there is no ssh on this machine.
    """
    host = remote_host(login, say)
    try:
        host.connect()
        yield host
    finally:
        host.close()
