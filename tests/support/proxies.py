"""Forward proxies on loopback: HTTP with CONNECT, and SOCKS5. Names may lead to other addresses.

Source: RFC 9110, sections 9.3.6 and 11.7 (CONNECT, Proxy-Authenticate); RFC 1928 and 1929 (SOCKS).
"""

import base64
import socket
import socketserver
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

_PIECE_BYTES = 1 << 16


class ForwardProxy:
    """Passes connections on while the context is open.

    Args:
        login: `USER:PASSWORD`, without which it refuses.
        names: by host, the address and port that it really connects to.

    Attributes:
        asked: `HOST:PORT` of every connection that was asked for.
    """

    SCHEME: ClassVar[str]

    def __init__(
        self, *, login: str = "", names: Mapping[str, tuple[str, int]] | None = None
    ) -> None:
        self.login = login
        self.names = dict(names or {})
        self.asked: list[str] = []
        self._server = _Server(("127.0.0.1", 0), self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )

    @property
    def place(self) -> str:
        """Its address and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def url(self, login: str = "") -> str:
        """What a variable is set to."""
        return f"{self.SCHEME}://{login + '@' if login else ''}{self.place}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def connect(self, host: str, port: int) -> socket.socket:
        """Return a connection to where a name leads."""
        self.asked.append(f"{host}:{port}")
        return socket.create_connection(self.names.get(host, (host, port)), timeout=30)

    def talk(self, client: socket.socket) -> None:
        """Do what one client asks for."""
        raise NotImplementedError


class HttpProxy(ForwardProxy):
    """An HTTP proxy: CONNECT, and plain requests for whole addresses."""

    SCHEME = "http"

    def talk(self, client: socket.socket) -> None:
        head = _until_blank(client)
        if not head:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines if line)
        fields = {name.lower(): value.strip() for name, _, value in pairs}
        token = base64.b64encode(self.login.encode()).decode()
        if self.login and fields.get("proxy-authorization") != f"Basic {token}":
            client.sendall(
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b'Proxy-Authenticate: Basic realm="corp"\r\nContent-Type: text/html\r\n'
                b"Content-Length: 26\r\nConnection: close\r\n\r\n<html>Access denied</html>"
            )
            return
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            with self.connect(host.strip("[]"), int(port)) as there:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                _relay(client, there)
            return
        parts = urlsplit(target)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        kept = [line for line in lines if line and not line.lower().startswith("proxy-")]
        kept = [line for line in kept if not line.lower().startswith("connection:")]
        ahead = "\r\n".join([f"{method} {path or '/'} HTTP/1.1", *kept, "Connection: close"])
        with self.connect(parts.hostname or "", parts.port or 80) as there:
            there.sendall(f"{ahead}\r\n\r\n".encode("latin-1"))
            _relay(client, there)


class SocksProxy(ForwardProxy):
    """A SOCKS proxy of version 5, CONNECT only."""

    SCHEME = "socks5h"

    def talk(self, client: socket.socket) -> None:
        methods = _exactly(client, _exactly(client, 2)[1])
        wanted = 2 if self.login else 0
        if wanted not in methods:
            client.sendall(b"\x05\xff")
            return
        client.sendall(bytes([5, wanted]))
        if self.login:
            user = _exactly(client, _exactly(client, 2)[1])
            password = _exactly(client, _exactly(client, 1)[0])
            right = f"{user.decode()}:{password.decode()}" == self.login
            client.sendall(b"\x01\x00" if right else b"\x01\x01")
            if not right:
                return
        kind = _exactly(client, 4)[3]
        match kind:
            case 1:
                host = socket.inet_ntop(socket.AF_INET, _exactly(client, 4))
            case 4:
                host = socket.inet_ntop(socket.AF_INET6, _exactly(client, 16))
            case _:
                host = _exactly(client, _exactly(client, 1)[0]).decode()
        (port,) = struct.unpack(">H", _exactly(client, 2))
        with self.connect(host, port) as there:
            client.sendall(b"\x05\x00\x00\x01" + bytes(6))
            _relay(client, there)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], proxy: ForwardProxy) -> None:
        self.proxy = proxy
        super().__init__(address, _Handler)


class _Handler(socketserver.BaseRequestHandler):
    server: Any

    def handle(self) -> None:
        with suppress(OSError, EOFError):
            self.server.proxy.talk(self.request)


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes on both ways until either side ends."""

    def back() -> None:
        with suppress(OSError):
            while piece := other.recv(_PIECE_BYTES):
                one.sendall(piece)
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)

    thread = threading.Thread(target=back, daemon=True)
    thread.start()
    with suppress(OSError):
        while piece := one.recv(_PIECE_BYTES):
            other.sendall(piece)
        other.shutdown(socket.SHUT_WR)
    thread.join()


def _until_blank(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(1)
        if not piece:
            return b""
        data += piece
    return data.removesuffix(b"\r\n\r\n")


def _exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = client.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
