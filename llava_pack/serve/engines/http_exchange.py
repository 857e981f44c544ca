"""HTTP/1.1 at a Unix socket: requests over connections that are kept, answers read as they come.

Nothing is read ahead: who reads slowly has the other side wait. An exchange that is left before
its end closes its connection, by which the other side knows that nobody waits any more.

Source: RFC 9112, section 9.3 (connections that are kept); docs/decisions/0043 (why h11).
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

from llava_pack.format.errors import ServeError, reason_of
from llava_pack.serve.engines.http_body import NO_BODY, Body

if TYPE_CHECKING:
    import h11

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Opener: TypeAlias = Callable[[], Awaitable[Streams]]
"""Opens a connection to the server, and raises OSError where there is none."""

_PIECE_BYTES = 1 << 16
_MOST_KEPT = 32
_HEAD_BYTES = 1 << 16


class GoneError(ServeError):
    """Nobody listens there any more."""


class CutOffError(ServeError):
    """A connection ended before the answer did."""


class Response:
    """An answer whose head has come."""

    def __init__(self, line: "_KeptLine", status: int) -> None:
        self._line = line
        self.status = status
        """As HTTP has it."""

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes.

        Raises:
            ServeError: it was cut off, or is silent for too long.
        """
        import h11

        while not isinstance(event := await self._line.event(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    async def whole(self, most_bytes: int) -> bytes:
        """Return the body.

        Raises:
            ServeError: it is longer than `most_bytes`, or was cut off.
        """
        body = bytearray()
        async for piece in self.pieces():
            body += piece
            if len(body) > most_bytes:
                raise ServeError(f"an answer of the engine is longer than {most_bytes} bytes")
        return bytes(body)


class HttpEndpoint:
    """A server that is asked over HTTP.

    Args:
        opener: of connections.
        key: what it is shown, empty for nothing.
        silent_s: how long it may say nothing while an answer is waited for.
        host: what it is called.
    """

    def __init__(
        self, opener: Opener, key: str = "", silent_s: float = 600.0, host: str = "localhost"
    ) -> None:
        self._opener = opener
        self._silent_s = silent_s
        self._headers = [(b"Host", host.encode()), (b"Accept-Encoding", b"identity")]
        if key:
            self._headers.append((b"Authorization", f"Bearer {key}".encode()))
        self._kept: list[_KeptLine] = []

    async def meet(self) -> None:
        """Open a connection and keep it for the first request.

        Raises:
            GoneError: nobody listens there.
        """
        self._keep(await self._open())

    @asynccontextmanager
    async def asked(self, method: str, path: str, body: Body = NO_BODY) -> AsyncIterator[Response]:
        """Send a request and yield its answer once its head is there.

        Raises:
            GoneError: nobody listens there.
            ServeError: what came is no answer, or none came.
        """
        line, response = await self._sent(method, path, body)
        del body
        try:
            yield response
        finally:
            if line.next_cycle():
                self._keep(line)
            else:
                line.close()

    async def close(self) -> None:
        """Close what is kept; exchanges close their own."""
        while self._kept:
            line = self._kept.pop()
            line.close()
            await line.closed()

    async def _sent(self, method: str, path: str, body: Body) -> tuple["_KeptLine", Response]:
        """Send a request over a kept connection, or, where that was closed meanwhile, a new one."""
        while True:
            kept = self._kept.pop() if self._kept else None
            if kept is not None and not kept.usable:
                kept.close()
                continue
            line = kept or await self._open()
            try:
                return line, await line.send(method, path, self._headers, body)
            except CutOffError:
                line.close()
                if kept is None or line.heard:
                    raise
            except BaseException:
                line.close()
                raise

    async def _open(self) -> "_KeptLine":
        try:
            reader, writer = await self._opener()
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise GoneError(f"cannot reach the engine: {reason_of(error)}") from error
        except OSError as error:
            raise ServeError(f"cannot reach the engine: {reason_of(error)}") from error
        return _KeptLine(reader, writer, self._silent_s)

    def _keep(self, line: "_KeptLine") -> None:
        if len(self._kept) < _MOST_KEPT:
            self._kept.append(line)
        else:
            line.close()


class _KeptLine:
    """One connection, on which one request follows the other."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silent_s: float
    ) -> None:
        import h11

        self._reader = reader
        self._writer = writer
        self._silent_s = silent_s
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
        self.heard = False
        """Whether anything of an answer to the latest request has come."""

    @property
    def usable(self) -> bool:
        """Return whether the other side keeps it too."""
        return not (self._reader.at_eof() or self._writer.is_closing())

    async def send(
        self, method: str, path: str, headers: list[tuple[bytes, bytes]], body: Body
    ) -> Response:
        """Send a request and return its answer, whose body is still to come."""
        import h11

        self.heard = False
        own = [*headers, (b"Content-Length", str(len(body)).encode())]
        if body:
            own.append((b"Content-Type", b"application/json"))
        await self._write(self._state.send(h11.Request(method=method, target=path, headers=own)))
        for piece in body.pieces():
            await self._write(self._state.send(h11.Data(data=piece)))
        del body
        await self._write(self._state.send(h11.EndOfMessage()))
        while not isinstance(event := await self.event(), h11.Response):
            pass
        return Response(self, event.status_code)

    async def event(self) -> "h11.Event | type[h11.NEED_DATA | h11.PAUSED]":
        """Return what comes next.

        Raises:
            ServeError: the connection was lost, is silent, or what came is not HTTP.
        """
        import h11

        try:
            while (event := self._state.next_event()) is h11.NEED_DATA:
                async with asyncio.timeout(self._silent_s):
                    data = await self._reader.read(_PIECE_BYTES)
                self.heard = self.heard or bool(data)
                self._state.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise CutOffError("the engine's answer was cut off, or is not HTTP") from error
        except TimeoutError as error:
            raise ServeError(f"the engine said nothing for {self._silent_s:.0f} s") from error
        except OSError as error:
            raise CutOffError(f"the connection to the engine was lost: {error}") from error
        if isinstance(event, h11.ConnectionClosed):
            raise CutOffError("the connection to the engine was lost")
        return event

    def next_cycle(self) -> bool:
        """Make ready for another request; return False where the connection is of no more use."""
        import h11

        if self._state.our_state is h11.DONE and self._state.their_state is h11.DONE:
            self._state.start_next_cycle()
            return self.usable
        return False

    def close(self) -> None:
        """Close it at once: what was not sent is not waited for."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._writer.transport.abort()

    async def closed(self) -> None:
        """Wait until nothing is left of it."""
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _write(self, data: bytes | None) -> None:
        """Hand on a piece; a transport keeps a copy of what it cannot send yet."""
        if not data:
            return
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise CutOffError(f"the connection to the engine was lost: {error}") from error
