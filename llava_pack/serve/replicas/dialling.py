"""How a replica is reached: at its own address, or at a socket that relays to it."""

from pathlib import Path
from typing import TYPE_CHECKING

from llava_pack.format.errors import ServeError, UsageError
from llava_pack.serve.replicas.address import ReplicaAddress
from llava_pack.serve.replicas.connection import ReplicaConnection

if TYPE_CHECKING:
    import httpx

_CONNECT_S = 5.0
_SILENT_S = 30.0
"""How long a stream may tell nothing: a server of ours tells every ten seconds that it works."""
_HERE = "http://localhost"


def direct(replica: ReplicaAddress) -> ReplicaConnection:
    """Return a connection to a replica at its own address; nobody is asked yet."""
    return ReplicaConnection(_http(replica.path, replica.url), replica.key)


def relayed_at(socket: Path, key: str) -> ReplicaConnection:
    """Return a connection to a replica behind a socket; nobody is asked yet."""
    return ReplicaConnection(_http(socket, _HERE), key)


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


def _http(socket: Path | None, url: str) -> "httpx.AsyncClient":
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(
        base_url=url,
        transport=httpx.AsyncHTTPTransport(
            uds=None if socket is None else str(socket), limits=limits
        ),
        timeout=httpx.Timeout(_SILENT_S, connect=_CONNECT_S, pool=None),
        trust_env=False,
    )
