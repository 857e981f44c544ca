"""How a replica is reached: at its own address, or at a socket that relays to it."""

import asyncio
from functools import partial
from pathlib import Path

from llava_pack.format.errors import ServeError, UsageError
from llava_pack.serve.engines.http_exchange import HttpEndpoint, Opener
from llava_pack.serve.replicas.address import ReplicaAddress
from llava_pack.serve.replicas.connection import ReplicaConnection

_SILENT_S = 30.0
"""How long a stream may tell nothing: a server of ours tells every ten seconds that it works."""
_HERE = "localhost"


def direct(replica: ReplicaAddress) -> ReplicaConnection:
    """Return a connection to a replica at its own address; nobody is asked yet."""
    if replica.path is not None:
        return relayed_at(replica.path, replica.key)
    return _over(partial(asyncio.open_connection, replica.host, replica.port), replica.key)


def relayed_at(socket: Path, key: str) -> ReplicaConnection:
    """Return a connection to a replica behind a socket; nobody is asked yet."""
    return _over(partial(asyncio.open_unix_connection, socket), key)


async def connected(socket: Path, key: str) -> ReplicaConnection:
    """Return a connection to a replica behind a socket.

    Raises:
        ServeError: it does not answer.
    """
    connection = relayed_at(socket, key)
    try:
        await connection.report()
    except UsageError as error:
        await connection.close()
        raise ServeError(str(error)) from error
    except BaseException:
        await connection.close()
        raise
    return connection


def _over(opener: Opener, key: str) -> ReplicaConnection:
    # by loopback's name, which every server of ours goes by, whatever else it is called
    return ReplicaConnection(HttpEndpoint(opener, key, _SILENT_S, host=_HERE))
