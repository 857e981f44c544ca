"""Two processes that decode pictures, each with a thread that talks to it and kills it in time.

The threads live as long as the server: a child's end with its parent is bound to the thread that
started it. Which picture is next is decided on the event loop, see `FairQueue`; here one is
decoded.
"""

import contextlib
import math
import os
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from llava_pack.engine.inputs import decoder_process as decoder
from llava_pack.engine.limits import Limits
from llava_pack.engine.picture_mode import PictureMode
from llava_pack.engine.pixels import kept, memory_file
from llava_pack.engine.port import Picture
from llava_pack.format.errors import PackError, ServeError, UsageError, reason_of
from llava_pack.serve.subprocesses import python_program

_KEPT_BLOCKS = "8"
"""Of 16 MB, which Pillow keeps for the next picture: pages that are there already cost least."""
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT")
_STARTING_S = 60.0
Job = Callable[["Decoder"], object]


class Decoder:
    """One process; used from one thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._pixels = -1

    def start(self) -> None:
        """Start the process, where none runs, and wait until it can decode.

        Raises:
            ServeError: it cannot be started, or ended before it was given anything.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.end()
        try:
            self._start()
            self._frame(time.monotonic() + _STARTING_S)
        except OSError as error:
            self.end()
            why = reason_of(error)
            raise ServeError(f"the picture decoder cannot be started: {why}") from error

    def _start(self) -> None:
        self._pixels = memory_file()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*python_program(decoder.__name__), str(self._pixels)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(self._pixels,),
                env=_environment(),
                cwd="/",
                start_new_session=True,
            )

    def decode(self, data: bytes, limits: Limits, mode: PictureMode) -> Picture:
        """Return the picture in a file's bytes.

        Args:
            data: the bytes.
            limits: what it may be.
            mode: how it becomes RGB.

        Raises:
            UsageError: not a picture within the limits, that of time among them.
            ServeError: there is no process to decode it.
        """
        seen = self._ask(data, limits, mode)
        try:
            pixels = kept(self._pixels, seen.width * seen.height * 3)
            return Picture(seen.width, seen.height, pixels, seen.only_colour)
        except (EOFError, OSError) as error:
            self.end()
            raise _no_picture() from error

    def measure(self, data: bytes, limits: Limits) -> tuple[int, int]:
        """Return the (width, height) that a picture's header tells.

        Raises:
            UsageError, ServeError: as `decode`.
        """
        seen = self._ask(data, limits, None)
        return seen.width, seen.height

    def _ask(self, data: bytes, limits: Limits, mode: PictureMode | None) -> decoder.PictureFacts:
        self.start()
        assert self._socket is not None  # noqa: S101 - start has set it
        until_s = time.monotonic() + limits.decode_s
        try:
            for frame in decoder.ask(data, limits, mode):
                self._socket.settimeout(_left(until_s))
                self._socket.sendall(frame)
            answer = self._frame(until_s)
        except TimeoutError:
            self.end()
            raise UsageError(
                f"the picture takes too long to decode: more than {limits.decode_s:g} s",
                hint="save it again as a plain PNG or JPEG",
            ) from None
        except OSError as error:
            self.end()
            raise _no_picture() from error
        try:
            seen = decoder.told(answer)
        except UsageError:
            raise
        except PackError as error:
            self.end()
            raise _no_picture() from error
        sides = seen.width, seen.height
        if min(sides) < 1 or math.prod(sides) > limits.pixels:  # whatever got into it says so
            self.end()
            raise _no_picture()
        return seen

    def _frame(self, until_s: float) -> bytes:
        (length,) = decoder.LENGTH.unpack(self._exactly(decoder.LENGTH.size, until_s))
        if length > decoder.MAX_HEAD_BYTES:
            raise ConnectionError
        return self._exactly(length, until_s)

    def _exactly(self, size: int, until_s: float) -> bytes:
        assert self._socket is not None  # noqa: S101 - as above
        data = b""
        while len(data) < size:
            self._socket.settimeout(_left(until_s))
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise ConnectionResetError
            data += piece
        return data

    def end(self) -> None:
        """Kill the process, and keep nothing of it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._pixels >= 0:
            os.close(self._pixels)
            self._pixels = -1


class DecoderPool:
    """Decoders, each on a thread of its own; jobs go to whichever is free."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._jobs: queue.SimpleQueue[tuple[Job, Future[object]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads and their processes, which are ready some tenths of a second later."""
        while len(self._threads) < self._count:
            thread = threading.Thread(target=self._work, name="pictures", daemon=True)
            self._threads.append(thread)
            thread.start()

    def submit(self, job: Job) -> "Future[object]":
        """Run a job on the next free decoder; one that was cancelled before is not begun."""
        self.start()
        future: Future[object] = Future()
        self._jobs.put((job, future))
        return future

    def close(self) -> None:
        """End threads and processes, once what they decode is done."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _work(self) -> None:
        with contextlib.ExitStack() as stack:
            own = Decoder()
            stack.callback(own.end)
            with contextlib.suppress(ServeError):  # the first picture will say so
                own.start()
            while self._did_next(own):
                pass  # and nothing of the last job is held while there is none

    def _did_next(self, own: Decoder) -> bool:
        """Do the next job, and return whether there was one."""
        taken = self._jobs.get()
        if taken is None:
            return False
        job, future = taken
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(job(own))
        except Exception as error:  # noqa: BLE001 - it is the asker's, who hears it
            future.set_exception(error)
        finally:
            del taken, job, future  # an error holds this frame, and would hold the picture
        return True


def _no_picture() -> UsageError:
    return UsageError(
        "the picture cannot be decoded: its decoder ran out of memory, or failed",
        hint="save it again as a plain PNG or JPEG",
    )


def _environment() -> dict[str, str]:
    """Return what a decoder is told; Source: Pillow, "Block allocator" of its reference."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {**kept, "PILLOW_BLOCKS_MAX": _KEPT_BLOCKS}


def _left(until_s: float) -> float:
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
