"""An HTTP server on loopback that counts what it serves and fails when told to.

It stands in for hosts that tests cannot reach: ranges, validators, HEAD and keep-alive behave as
on a real file server, so that real clients can be held against it.
"""

import re
import socket
import ssl
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, Self
from urllib.parse import unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it came in; header names in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What to send; a file, or bytes; `ranged` where parts of it may be asked for."""

    status: int = 200
    body: bytes | Path = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    ranged: bool = False

    @property
    def size_bytes(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.stat().st_size


@dataclass(kw_only=True)
class Fault:
    """What goes wrong for one path.

    Attributes:
        statuses: sent instead of the answer, one a request, until used up.
        cut_bytes: body bytes sent before the connection drops, one a request, until used up.
        hold_bytes: body bytes sent before `held` is set and `released` is waited for.
        corrupt_at: offset in the whole file of a byte that is flipped.
        unsized: leave Content-Length out; the end of the connection ends the body.
        ignore_range: answer 200 with everything, whatever was asked.
        if_range_blind: answer a range even if If-Range names another version.
        range_from: answer any range as if it had been asked from here.
        etag: replaces the true one; empty leaves it out.
        headers: added to the answer; an empty value leaves a header out.
        spares_ranges: a request for a range is answered as if nothing were wrong.
    """

    statuses: list[int] = field(default_factory=list)
    cut_bytes: list[int] = field(default_factory=list)
    hold_bytes: int | None = None
    corrupt_at: int | None = None
    unsized: bool = False
    ignore_range: bool = False
    if_range_blind: bool = False
    range_from: int | None = None
    etag: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    spares_ranges: bool = False
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


class Loopback(ABC):
    """Serve `respond` on a free port of this machine while the context is open.

    Args:
        host: one of its addresses.
        port: 0 for a free one.
        tls: a PEM file with a certificate and its key, to answer over https.

    Attributes:
        served: body bytes sent, or just being sent, by path.
        asked: every request, in the order they came.
        faults: by path, or by the end of one.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, tls: Path | None = None) -> None:
        self.served: Counter[str] = Counter()
        self.asked: list[Asked] = []
        self.faults: dict[str, Fault] = {}
        self._server = _Server((host, port), self)
        self._host = host
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            self._server.secure(tls)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )

    @property
    def url(self) -> str:
        """The address to give to clients, without a final slash."""
        return f"{self._scheme}://{self._host}:{self._server.server_port}"

    @abstractmethod
    def respond(self, asked: Asked) -> Answer:
        """Return the answer to one request; called on many threads."""

    def fault(self, path: str, **what: Any) -> Fault:
        """Make `path` (or every path that ends so) fail from now on."""
        self.faults[path] = Fault(**what)
        return self.faults[path]

    def heal(self) -> None:
        """Make everything work again; transfers that were held go on."""
        for fault in self.faults.values():
            fault.released.set()
        self.faults.clear()

    def fault_of(self, path: str) -> Fault:
        """Return what is to go wrong for `path`."""
        return next((f for end, f in self.faults.items() if path.endswith(end)), Fault())

    def requests(self, end: str, method: str = "GET") -> list[Asked]:
        """Return the requests whose path ends in `end`."""
        return [a for a in self.asked if a.method == method and a.path.endswith(end)]

    def whole(self, *ends: str) -> list[Asked]:
        """Return the requests for all of a file, not a range of it, whose path ends so."""
        return [a for end in ends for a in self.requests(end) if "range" not in a.headers]

    def open(self) -> None:
        """Start answering."""
        self._thread.start()

    def close(self) -> None:
        """Stop; connections that clients keep open are dropped."""
        self.heal()
        self._server.shutdown()
        self._server.drop_connections()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: Loopback) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(address, _Handler)

    def secure(self, pem: Path) -> None:
        """Answer over TLS, each connection shaking hands on its own thread."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        with self._guard:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was quicker

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Say nothing: `asked` keeps the record."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer()

    def _answer(self) -> None:
        owner = self.server.owner
        parts = urlsplit(self.path)
        asked = Asked(
            method=self.command,
            path=unquote(parts.path),
            query=parts.query,
            headers={name.lower(): value for name, value in self.headers.items()},
        )
        owner.asked.append(asked)
        fault = owner.fault_of(asked.path)
        if fault.spares_ranges and "range" in asked.headers:
            fault = Fault()
        if fault.statuses:
            answer = Answer(status=fault.statuses.pop(0), body=b"told to fail\n")
        else:
            answer = owner.respond(asked)
        self._send(asked, answer, fault)

    def _send(self, asked: Asked, answer: Answer, fault: Fault) -> None:
        headers = {**_dated(answer), **answer.headers, **fault.headers}
        if fault.etag is not None and "ETag" in headers:
            headers["ETag"] = fault.etag
        headers = {name: value for name, value in headers.items() if value}
        total = answer.size_bytes
        if fault.if_range_blind:
            asked.headers.pop("if-range", None)
        if fault.range_from is not None and "range" in asked.headers:
            asked.headers["range"] = f"bytes={fault.range_from}-"
        status, start, end = _span(asked, answer, headers, total)
        if fault.ignore_range:
            status, start, end = answer.status, 0, total
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
        if status == 416:
            headers["Content-Range"] = f"bytes */{total}"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault.unsized:
            self.send_header("Connection", "close")
        elif status != 304:
            self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if asked.method != "HEAD" and status != 304:
            self._send_body(asked.path, answer, fault, start, end)

    def _send_body(self, path: str, answer: Answer, fault: Fault, start: int, end: int) -> None:
        stop = start + fault.cut_bytes.pop(0) if fault.cut_bytes else end
        hold = start + fault.hold_bytes if fault.hold_bytes is not None else None
        with _opened(answer.body) as source:
            source.seek(start)
            at = start
            while at < min(stop, end):
                if hold is not None and at >= hold and not fault.released.is_set():
                    fault.held.set()
                    fault.released.wait()
                limit = min(stop, end, hold if hold is not None and at < hold else end)
                piece = bytearray(source.read(min(_PIECE_BYTES, limit - at)))
                if fault.corrupt_at is not None and at <= fault.corrupt_at < at + len(piece):
                    piece[fault.corrupt_at - at] ^= 1
                at += len(piece)
                self.server.owner.served[path] += len(piece)  # before the client can act on it
                self.wfile.write(piece)
        if stop < end:
            self.close_connection = True


def _opened(body: bytes | Path) -> BinaryIO:
    if isinstance(body, bytes):
        from io import BytesIO

        return BytesIO(body)
    return body.open("rb")


def _dated(answer: Answer) -> dict[str, str]:
    if not answer.ranged:
        return {}
    when = answer.body.stat().st_mtime if isinstance(answer.body, Path) else 0
    return {"Accept-Ranges": "bytes", "Last-Modified": formatdate(when, usegmt=True)}


def _span(
    asked: Asked, answer: Answer, headers: Mapping[str, str], total: int
) -> tuple[int, int, int]:
    """Return status, first and one-past-last byte. Source: RFC 9110, sections 13 and 14."""
    etag = headers.get("ETag")
    if answer.status != 200 or not answer.ranged:
        return answer.status, 0, total
    if etag and asked.headers.get("if-none-match") == etag:
        return 304, 0, 0
    match = _RANGE.fullmatch(asked.headers.get("range", ""))
    current = {etag, headers.get("Last-Modified")}
    if not match or asked.headers.get("if-range", etag) not in current:
        return 200, 0, total
    first, last = match[1], match[2]
    if not first:
        return 206, max(0, total - int(last)), total
    if int(first) >= total:
        return 416, 0, 0
    return 206, int(first), min(total, int(last) + 1) if last else total
