"""What goes out on a connection: one message after the other, in pieces, to its end.

Pictures are as large as they were decoded. A transport keeps a copy of what it cannot send yet, so
it is given a piece at a time; and a message that was begun is ended, whoever gives up waiting for
it meanwhile: the one behind it would be read as its rest.
"""

import asyncio
from collections.abc import Sequence

from llava_pack.engine.pixels import Pixels, pieces

Frames = Sequence[Pixels]


class Outbox:
    """The sending side of a connection; to be made within the event loop.

    Args:
        writer: of the connection; nobody else writes to it.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._waiting: asyncio.Queue[tuple[Frames, asyncio.Future[None]]] = asyncio.Queue()
        self._task = asyncio.create_task(self._send_all())

    async def send(self, frames: Frames) -> None:
        """Send the frames of a message once it is their turn; given up before, they are not sent.

        Raises:
            OSError: the other side is gone, or this one was closed.
        """
        await self.post(frames)

    def post(self, frames: Frames) -> "asyncio.Future[None]":
        """Send the frames of a message; nobody has to wait for that."""
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((frames, sent))
        if self._task.done():
            self._refuse()
        return sent

    async def close(self) -> None:
        """Send nothing any more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._refuse()

    async def _send_all(self) -> None:
        while True:
            await self._send_next()  # and nothing of the last one is held while there is none

    async def _send_next(self) -> None:
        frames, sent = await self._waiting.get()
        if sent.cancelled():
            return
        try:
            await self._send(frames)
        except asyncio.CancelledError:
            _fail(sent, _closed())
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, this one was not ended
            # What comes next would be read as the rest of it.
            self._writer.transport.abort()
            _fail(sent, error if isinstance(error, OSError) else _closed())
        else:
            if not sent.done():
                sent.set_result(None)

    async def _send(self, frames: Frames) -> None:
        for frame in frames:
            for piece in pieces(frame):
                self._writer.write(piece)
                await self._writer.drain()

    def _refuse(self) -> None:
        while not self._waiting.empty():
            _fail(self._waiting.get_nowait()[1], _closed())


def _closed() -> ConnectionAbortedError:
    return ConnectionAbortedError("closed")


def _fail(sent: "asyncio.Future[None]", error: OSError) -> None:
    if not sent.done():
        sent.set_exception(error)
        sent.exception()  # who posted may not be there any more
