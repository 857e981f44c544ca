"""HTTP clients that follow the one front: of httpx, and of what the Hub's client stands on.

Both ask the proxies of the environment in their own way, and one of them fails on a network in
`no_proxy`. So they get a transport that chooses the proxy of each request, and choose none.
"""

import socket
import ssl
from threading import Lock
from types import ModuleType
from typing import Any, Self

from llava_pack.format.errors import reason_of
from llava_pack.network.front import NetworkFront
from llava_pack.network.obstacles import absent_proxy
from llava_pack.network.proxies import Proxy

_PROXY_WITHIN_S = 5.0


def open_client(
    library: ModuleType, front: NetworkFront, *, connections: int = 100, **options: Any
) -> Any:
    """Return a client.

    Args:
        library: httpx, or another of its interface.
        front: certificates and proxies.
        connections: at once, by proxy.
        options: of the library's client.
    """
    return library.Client(transport=Routes(library, front, connections), **options)


class Routes:
    """A transport that hands each request to the one of its proxy."""

    def __init__(
        self,
        library: ModuleType,
        front: NetworkFront,
        connections: int,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._library = library
        self._front = front
        self._context = context or front.trust.context()
        self._limits = library.Limits(
            max_connections=connections, max_keepalive_connections=connections
        )
        self._ways: dict[Proxy | None, Any] = {}
        self._guard = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def handle_request(self, request: Any) -> Any:
        """Return the answer to a request."""
        from socksio.exceptions import SOCKSError

        proxy = self._front.proxies.proxy_for(str(request.url))
        try:
            return self._way(proxy).handle_request(request)
        except (SOCKSError, AssertionError) as error:  # httpcore expects a proxy to know SOCKS
            if proxy is None or proxy.scheme != "socks5h":
                raise
            said = f"{proxy.address} does not answer as a SOCKS proxy does"
            raise self._library.ProxyError(said, request=request) from error
        except (self._library.ConnectError, self._library.ConnectTimeout) as error:
            gone = None if proxy is None else absence(proxy)
            if gone is None:
                raise
            raise self._library.ProxyError(gone, request=request) from error

    def close(self) -> None:
        """Close every connection."""
        for way in self._ways.values():
            way.close()

    def _way(self, proxy: Proxy | None) -> Any:
        with self._guard:
            if proxy not in self._ways:
                self._ways[proxy] = self._library.HTTPTransport(
                    verify=self._context,
                    limits=self._limits,
                    proxy=None if proxy is None else self._told(proxy),
                    trust_env=False,
                )
            return self._ways[proxy]

    def _told(self, proxy: Proxy) -> Any:
        login = (proxy.user, proxy.password) if proxy.user or proxy.password else None
        context = self._context if proxy.scheme == "https" else None
        address = proxy.address.replace("socks5h:", "socks5:")  # the same to both libraries
        return self._library.Proxy(address, auth=login, ssl_context=context)


def absence(proxy: Proxy) -> str | None:
    """Return what to say of a proxy that is itself not there; None where it takes connections."""
    try:
        socket.create_connection((proxy.host, proxy.port), _PROXY_WITHIN_S).close()
    except OSError as error:
        return absent_proxy(proxy, reason_of(error))
    return None
