"""Connections: how many there may be, and how long one may take to say what it wants.

uvicorn bounds how long an answered connection may idle, and nothing before that: one byte a second
keeps a connection, and its file, for as long as somebody likes. Here headers have a time, bodies
must come on, and answers must be read. A peer has a number of connections; beyond it the oldest
without a request makes room, so that whoever holds many loses them first. Behind a tunnel all
clients are one peer, and so are all of a Unix socket.
"""

import asyncio
import functools
import logging
import resource
from collections import Counter
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from llava_pack.serve.admission.refusals import Refusals

_MAX_HEAD_BYTES = 32 * 1024
_UVICORN_LOG = "uvicorn.error"
_COUNTED_LINES = (
    "Invalid HTTP request received",
    "Unsupported upgrade request",
    "No supported WebSocket library",
    "Exceeded concurrency limit",
)
_ACCEPT_FAILED = (
    "socket.accept() out of system resource"  # Source: CPython, asyncio/selector_events.py
)


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What connections may do.

    Attributes:
        total: open ones.
        of_peer: open ones of one address.
        header_s: from the first byte of a request, or the beginning, to the end of its headers.
        body_s: in which a body must come on by `body_bytes`, or end.
        body_bytes: see there; a modem brings them.
        unread_s: how long an answer may wait to be read.
        idle_s: between an answer and the next request; longer than proxies keep a connection, or
            they would send the next request into one that is just being closed.
    """

    total: int = 1024
    of_peer: int = 512
    header_s: float = 10.0
    body_s: float = 30.0
    body_bytes: int = 16 * 1024
    unread_s: float = 60.0
    idle_s: int = 75


class Connections:
    """The open connections of a server, oldest first."""

    def __init__(self, limits: ConnectionLimits, refusals: Refusals) -> None:
        self.limits = limits
        self.refusals = refusals
        self._open: dict[WatchedProtocol, str] = {}
        self._of_peer: Counter[str] = Counter()

    def admit(self, new: "WatchedProtocol", peer: str) -> bool:
        """Return whether there is room for a connection, made by closing an idle one if need be."""
        limits = self.limits
        fits = self._of_peer[peer] < limits.of_peer or self._close_oldest_idle(peer)
        if not fits or (len(self._open) >= limits.total and not self._close_oldest_idle(None)):
            self.refusals.connection("too_many")
            return False
        self._open[new] = peer
        self._of_peer[peer] += 1
        return True

    def forget(self, gone: "WatchedProtocol") -> None:
        """Take note that a connection is closed."""
        peer = self._open.pop(gone, None)
        if peer is not None:
            self._of_peer[peer] -= 1
            self._of_peer += Counter()  # drops what is zero

    def accept_failed(self) -> None:
        """Take note that the system had no file for a connection; one that idles makes room."""
        self.refusals.connection("accept_errors")
        self._close_oldest_idle(None)

    def _close_oldest_idle(self, peer: str | None) -> bool:
        for connection, its_peer in self._open.items():
            if connection.idle and peer in {None, its_peer}:
                self.refusals.connection("idle_closed")
                connection.cut()
                return True
        return False


class WatchedProtocol(H11Protocol):
    """uvicorn's connection, with its times kept."""

    def __init__(self, *arguments: Any, watched_by: Connections, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._watched_by = watched_by
        self._timer: asyncio.TimerHandle | None = None
        self._waits_for: str = ""
        self._unread: asyncio.TimerHandle | None = None
        self._body_bytes = 0

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def cut(self) -> None:
        """Close at once, whatever is underway."""
        self._watched_by.forget(self)
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, where there is room for it."""
        super().connection_made(transport)  # type: ignore[arg-type]
        peer = self.client[0] if self.client else "local"
        if self._watched_by.admit(self, peer):
            self._wait_for("header", self._watched_by.limits.header_s)
        else:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._watched_by.forget(self)
        self._stop_waiting()
        self._stop_unread()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, and see whether the rest of it is still to come."""
        self._body_bytes += len(data)
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Begin with the next request, which may have come already."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._look()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._watched_by.refusals.connection("bad_requests")
        super().send_400_response(msg)

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        limit_s = self._watched_by.limits.unread_s
        self._unread = self.loop.call_later(limit_s, self._too_late, "unread_answers")

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        super().resume_writing()
        self._stop_unread()

    def _look(self) -> None:
        """Watch what is underway: headers that have begun, or a body."""
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            if self._waits_for != "body":
                self._begin_body()
        elif state is h11.IDLE and self.conn.trailing_data[0]:
            if self._waits_for != "header":
                self._wait_for("header", self._watched_by.limits.header_s)
        elif self._waits_for != "header" or state is not h11.IDLE:
            self._stop_waiting()

    def _begin_body(self) -> None:
        self._body_bytes = 0
        self._wait_for("body", self._watched_by.limits.body_s)

    def _wait_for(self, what: str, seconds: float) -> None:
        self._stop_waiting()
        self._waits_for = what
        self._timer = self.loop.call_later(seconds, self._time_is_over)

    def _time_is_over(self) -> None:
        ours = self.flow.read_paused  # the client cannot send while nobody reads
        if self._waits_for == "body" and (
            ours or self._body_bytes >= self._watched_by.limits.body_bytes
        ):
            self._begin_body()
        else:
            self._too_late(f"{self._waits_for}_timeouts")

    def _too_late(self, what: str) -> None:
        self._watched_by.refusals.connection(what)
        self.cut()

    def _stop_waiting(self) -> None:
        self._waits_for = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


def uvicorn_options(refusals: Refusals, limits: ConnectionLimits | None = None) -> dict[str, Any]:
    """Return what `uvicorn.Config` is given for connections that are watched.

    To be called within the event loop: errors of `accept` are heard there.

    Args:
        refusals: where they are counted.
        limits: what connections may do.
    """
    limits = limits or ConnectionLimits()
    connections = Connections(limits, refusals)
    _hear_accept_errors(asyncio.get_running_loop(), connections)
    logging.getLogger(_UVICORN_LOG).addFilter(_is_no_counted_line)
    return {
        "http": functools.partial(WatchedProtocol, watched_by=connections),
        "timeout_keep_alive": limits.idle_s,
        "h11_max_incomplete_event_size": _MAX_HEAD_BYTES,
    }


def raise_open_files() -> int:
    """Allow as many open files as the system lets this account have, and return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS has a lower bound than it tells
        return soft
    return hard


def _is_no_counted_line(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_COUNTED_LINES)


def _hear_accept_errors(loop: asyncio.AbstractEventLoop, connections: Connections) -> None:
    """Count what asyncio would log with a traceback each second; it tries again by itself."""
    before = loop.get_exception_handler()

    def hear(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") == _ACCEPT_FAILED:
            connections.accept_failed()
        elif before is not None:
            before(loop, context)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(hear)
