"""Pictures of a request: data: URLs only, decoded away from the event loop, few at a time.

Source: RFC 2397 (data: URLs); docs/explanation/threat-model.md for why nothing is fetched.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager

import anyio
import anyio.to_thread

from llava_pack.engine.pictures import Limits, decode_picture
from llava_pack.engine.port import Event, Picture
from llava_pack.format.errors import UsageError

_DATA = re.compile(r"data:image/[a-z0-9.+-]{1,40}(?:;[a-z0-9=._-]{1,40})*;base64,", re.IGNORECASE)
_DECODERS = 2
MAX_REQUEST_PIXELS = 100_000_000
"""Of all pictures of a request together: 300 MB once decoded."""
_SEATS = 16
"""Requests whose decoded pictures may be held at once, until the model has seen them."""
_EXPECTED = "a picture is given as data:image/png;base64,… (JPEG, PNG, WebP or GIF)"


class Seat:
    """The right to hold decoded pictures; given back once, however often that is asked for."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._taken = True
        self.handed_on = False
        """Whether somebody else gives it back."""

    def leave(self) -> None:
        """Give it back."""
        if self._taken:
            self._taken = False
            self._give_back()

    def until_seen(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """Return the events, which give it back: with the first one the pictures were seen."""
        self.handed_on = True
        return self._watched(events)

    async def _watched(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        try:
            async with aclosing(events):
                async for event in events:
                    self.leave()
                    yield event
        finally:
            self.leave()


class PictureDecoder:
    """Decodes pictures in at most two threads, so that a flood of them cannot take the machine."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._threads = anyio.CapacityLimiter(_DECODERS)
        self._seats = asyncio.Semaphore(_SEATS)

    @property
    def stalled(self) -> bool:
        """Return whether no picture gets through; a thread that decodes cannot be seen to hang."""
        return False

    @asynccontextmanager
    async def seated(self, pictures: int) -> AsyncIterator[Seat]:
        """Wait until there is room for a request's pictures; without any there always is.

        The seat is given back at the end of the block, unless `until_seen` took it over.
        """
        if pictures:
            await self._seats.acquire()
        seat = Seat(self._seats.release if pictures else lambda: None)
        try:
            yield seat
        except BaseException:
            seat.leave()
            raise
        if not seat.handed_on:
            seat.leave()

    async def from_url(self, url: str) -> Picture:
        """Return the picture in a data: URL.

        Raises:
            UsageError: any other URL, base64 that is none, or not a picture within the limits.
        """
        return await anyio.to_thread.run_sync(
            lambda: decode_picture(data_bytes(url, self._limits.size_bytes), self._limits),
            limiter=self._threads,
        )

    async def from_bytes(self, data: bytes) -> Picture:
        """Return the picture in a file's bytes.

        Raises:
            UsageError: not a picture within the limits.
        """
        return await anyio.to_thread.run_sync(
            lambda: decode_picture(data, self._limits), limiter=self._threads
        )


def check_pixels(pictures: Iterable[Picture]) -> None:
    """Refuse pictures that are too much together.

    Raises:
        UsageError: they are.
    """
    pixels = sum(picture.width * picture.height for picture in pictures)
    if pixels > MAX_REQUEST_PIXELS:
        raise UsageError(
            f"the pictures are too large together: {pixels / 1e6:.0f} megapixels, at most "
            f"{MAX_REQUEST_PIXELS / 1e6:g} are taken",
            hint="make them smaller, or ask about fewer",
        )


def data_bytes(url: str, max_bytes: int) -> bytes:
    """Return what a data: URL holds.

    Args:
        url: as it came in the request.
        max_bytes: the most that it may hold, checked before it is decoded.

    Raises:
        UsageError: another kind of URL, too much, or not base64.

    >>> data_bytes("data:image/png;base64,aGk=", 10)
    b'hi'
    """
    head = _DATA.match(url)
    if head is None:
        raise UsageError(f"pictures are not fetched: {_EXPECTED}, got {_kind(url)}")
    size = (len(url) - head.end()) * 3 // 4
    if size > max_bytes + 2:
        raise UsageError(f"the picture is too large: {size} bytes, at most {max_bytes} are taken")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"the picture is not base64: {_EXPECTED}") from error


def _kind(url: str) -> str:
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,20}(?=:)", url)
    return f"a URL that begins with {scheme[0]}:" if scheme else "something else"
