"""Pictures of a request, the same at every door: data: URLs and files, counted, then decoded.

Nothing is fetched, and of this machine's files only those below `--picture-root` are read. Headers
are read before pixels, what is the same is decoded once, and decoding goes on in processes of its
own, which are killed when they take too long. Pixels that are held at once, until the model has
seen them, have a budget.

Source: RFC 2397 (data: URLs); docs/explanation/threat-model.md for why nothing is fetched.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from llava_pack.engine.limits import Limits
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE, PictureMode
from llava_pack.engine.port import Picture
from llava_pack.format.errors import PackError, ServeError, UsageError
from llava_pack.serve.admission.body_budget import Budget
from llava_pack.serve.admission.fair_queue import Seats
from llava_pack.serve.admission.line import Line
from llava_pack.serve.api.data_urls import data_bytes
from llava_pack.serve.api.decoders import Decoder, DecoderPool
from llava_pack.serve.api.picture_root import PictureRoot, file_path
from llava_pack.serve.caller import ANYONE, Caller

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SentPicture:
    """A picture as text, and the field of the request in which it came."""

    url: str = field(repr=False)
    place: str = field(default="", compare=False)


Source = SentPicture | bytes
"""A picture as text, or a file's bytes."""
_DECODERS = 2
_COLOURS = 3
_STALL_S = 1.5 * Limits().decode_s
"""Half as long again as one picture may take."""
_MEND_EVERY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """The pictures of a request, and the room that they take; close it once they were seen."""

    pictures: tuple[Picture, ...] = ()
    close: Callable[[], None] = lambda: None
    """Gives the room back, and holds no picture; more than once is no harm."""


class PictureDecoder:
    """Admits and decodes pictures: two at a time, callers in turn."""

    def __init__(self, limits: Limits | None = None, root: PictureRoot | None = None) -> None:
        self._limits = limits or Limits()
        self._root = root
        self._pool = DecoderPool(_DECODERS)
        self._line = Line(lambda: Seats(_DECODERS, kept=1))
        most, one = (_COLOURS * n for n in (self._limits.total_pixels, self._limits.pixels))
        # one caller's most, and two of somebody else
        self._room = Budget(most + 2 * one, share=most)
        self._broken = False
        self._mending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the processes, so that the first picture finds them warm."""
        self._pool.start()

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    @property
    def stalled(self) -> bool:
        """Whether pictures wait too long for a decoder, or there is none."""
        return self._broken or self._line.oldest_s > _STALL_S

    @property
    def busy(self) -> bool:
        """Whether somebody waits for a decoder."""
        return self._line.queue.waiting > 0

    @property
    def room_waiting(self) -> int:
        """How many requests wait for room for their pixels."""
        return self._room.waiting

    async def admitted(
        self,
        sources: Sequence[Source],
        caller: Caller = ANYONE,
        mode: PictureMode = DEFAULT_PICTURE_MODE,
    ) -> Admitted:
        """Return the pictures of one request, in their order.

        Args:
            sources: the pictures as they came.
            caller: who asks.
            mode: how pictures become RGB for the model that is asked.

        Raises:
            UsageError: one of them, or all of them together, is not within the limits.
            ServeError: no decoder can be started.
        """
        check_count(len(sources), self._limits)
        if not sources:
            return Admitted()
        if len(sources) == 1:
            return await self._single(sources[0], caller, mode)
        distinct = tuple(dict.fromkeys(sources))
        files, pixels = await self._run(caller, lambda decoder: self._measured(decoder, distinct))
        check_pixels((pixels[source] for source in sources), self._limits)
        room = await self._room.take(caller.name, _COLOURS * sum(pixels.values()))
        try:
            decoded = {
                name: await self._decoded(name, caller, mode, files.get(name), measured)
                for name, measured in pixels.items()
            }
        except BaseException:
            room.give_back()
            raise
        return Admitted(pictures=tuple(decoded[source] for source in sources), close=room.give_back)

    async def _single(self, source: Source, caller: Caller, mode: PictureMode) -> Admitted:
        """Return the one picture of a request: its bound is enough, and its header is read once."""
        room = await self._room.take(caller.name, _COLOURS * self._limits.pixels)
        try:
            picture = await self._decoded(source, caller, mode, None, self._limits.pixels)
        except BaseException:
            room.give_back()
            raise
        room.keep(len(picture.rgb))
        return Admitted(pictures=(picture,), close=room.give_back)

    async def _decoded(
        self,
        source: Source,
        caller: Caller,
        mode: PictureMode,
        file: bytes | None,
        most_pixels: int,
    ) -> Picture:
        # a file that is read again may be another one by now: it gets the room that was taken
        limits = replace(self._limits, pixels=most_pixels)

        def decode(decoder: Decoder) -> Picture:
            with _named(source):
                return decoder.decode(file or self._file(source), limits, mode)

        return await self._run(caller, decode)

    def _measured(
        self, decoder: Decoder, sources: Iterable[Source]
    ) -> tuple[dict[Source, bytes], dict[Source, int]]:
        """Return the file and the pixels of each picture; on the decoder's thread.

        What lies on a disk is not kept: nothing has counted it, and it can be read again.
        """
        files: dict[Source, bytes] = {}
        pixels: dict[Source, int] = {}
        for one in sources:
            with _named(one):
                file = self._file(one)
                pixels[one] = math.prod(decoder.measure(file, self._limits))
                if isinstance(one, bytes) or file_path(one.url) is None:
                    files[one] = file
        return files, pixels

    def _file(self, source: Source) -> bytes:
        """Return the bytes of a picture's file; on the decoder's thread, for a disk may be slow."""
        if isinstance(source, bytes):
            return source
        path = file_path(source.url)
        if path is None:
            return data_bytes(source.url, self._limits.size_bytes)
        if self._root is None:
            raise UsageError(
                "pictures of this machine are not read: the server was started without "
                "--picture-root",
                hint="send it as a data: URL, or have the server started with --picture-root DIR",
            )
        return self._root.read(path, self._limits.size_bytes)

    async def _run(self, caller: Caller, job: Callable[[Decoder], T]) -> T:
        """Run a job on a decoder when it is the caller's turn.

        Whoever goes away meanwhile keeps the decoder until it is done, or its time is over.
        """
        loop = asyncio.get_running_loop()
        ticket = await self._line.enter(caller.name)
        future = self._pool.submit(job)

        def done(_: Future[Any]) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._line.leave, ticket)

        future.add_done_callback(done)
        try:
            result = await asyncio.wrap_future(future)
        except PackError as error:
            self._broken = isinstance(error, ServeError)
            if self._broken and (self._mending is None or self._mending.done()):
                self._mending = asyncio.create_task(self._mend())
            raise
        self._broken = False
        return cast("T", result)

    async def _mend(self) -> None:
        """Start a decoder until one starts: while `/readyz` is false, nobody brings a picture."""
        while self._broken:
            await asyncio.sleep(_MEND_EVERY_S)
            with suppress(ServeError):
                await asyncio.wrap_future(self._pool.submit(Decoder.start))
                self._broken = False


@contextmanager
def _named(source: Source) -> Iterator[None]:
    """Name the field that a picture came in where it is refused."""
    try:
        yield
    except UsageError as error:
        if isinstance(source, bytes) or error.subject:
            raise
        raise UsageError(error.message, subject=source.place, hint=error.hint) from error


def check_count(count: int, limits: Limits | None = None) -> None:
    """Refuse more pictures than a request may have.

    Raises:
        UsageError: there are more.
    """
    most = (limits or Limits()).count
    if count > most:
        raise UsageError(
            f"too many pictures: {count}, at most {most} are allowed",
            hint="send fewer, or start a new conversation",
        )


def check_pixels(pixels: Iterable[int], limits: Limits | None = None) -> None:
    """Refuse pictures that are too much together.

    Args:
        pixels: of each picture.
        limits: what a request may have.

    Raises:
        UsageError: they are.
    """
    total, most = sum(pixels), (limits or Limits()).total_pixels
    if total > most:
        raise UsageError(
            f"the pictures are too large in total: {total / 1e6:.0f} megapixels, at most "
            f"{most / 1e6:g} are allowed",
            hint="make them smaller, or send fewer",
        )
