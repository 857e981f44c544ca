"""A process that decodes pictures for somebody else.

Started by `python -I -m llava_pack.engine.inputs.decoder_process`.

A decoder reads bytes from strangers in a library of C. Here it can take no more than its memory
and its time, opens nothing, and can be killed: nobody but the one who sent the picture feels it.

On the socket, which is file 0, it says by the frame `{}` that it is ready: what ends before that
failed by itself, and not by a picture. Then the client sends a frame of JSON and the picture's
bytes, and hears a frame of JSON: `{"size": [width, height], "only_colour": "#rrggbb" or ""}` or
`{"error": kind, "message", "hint"}`. The pixels are in the file whose number is the argument, which
both sides have open: a memory file where there are any. A frame is a 4-byte big-endian length and
that many bytes.
"""

import contextlib
import json
import mmap
import os
import re
import resource
import signal
import socket
import struct
import sys
from dataclasses import asdict, dataclass
from typing import Any

from llava_pack.engine.fence.place import this_place
from llava_pack.engine.fence.plan import decoder_fence
from llava_pack.engine.fence.raising import raise_fence
from llava_pack.engine.fence.value import Standing
from llava_pack.engine.inputs.picture_decoder import decode_picture, measure_picture
from llava_pack.engine.limits import Limits
from llava_pack.engine.parent import die_with_parent
from llava_pack.engine.picture_mode import PictureMode
from llava_pack.engine.pixels import Pixels
from llava_pack.engine.port import error_of_kind
from llava_pack.format.errors import PackError, ServeError

LENGTH = struct.Struct(">I")
MAX_HEAD_BYTES = 4096
_MEMORY_BYTES = 2 << 30
"""51 megapixels take up to 1.2 GB, as a WebP with transparency; as a JPEG, half of that."""
_FILES = 64
_SPARE_S = 2
_READY = b"{}"
_COLOUR = re.compile(r"#[0-9a-f]{6}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """What an answer tells of a picture; its pixels are elsewhere."""

    width: int
    height: int
    only_colour: str = ""


def ask(data: bytes, limits: Limits, mode: PictureMode | None) -> list[bytes]:
    """Return the frames that ask for a picture.

    Args:
        data: the file's bytes.
        limits: what it may be.
        mode: how it becomes RGB; None asks for its size, and for no pixels.
    """
    head = json.dumps({"mode": mode, "limits": asdict(limits)}).encode()
    return [LENGTH.pack(len(head)), head, LENGTH.pack(len(data)), data]


def told(frame: bytes) -> PictureFacts:
    """Return what an answer tells.

    Raises:
        PackError: what went wrong, in its own class.
        ServeError: it is no answer.
    """
    try:
        answer: dict[str, Any] = json.loads(frame)
        if "error" in answer:
            raise error_of_kind(answer["error"], answer["message"], answer["hint"])
        width, height = answer["size"]
        colour = _COLOUR.fullmatch(answer["only_colour"])  # people are shown it, so nothing else
        return PictureFacts(int(width), int(height), colour[0] if colour else "")
    except (ValueError, KeyError, TypeError) as error:
        raise ServeError("the picture decoder sent an invalid answer") from error


def main() -> int:
    """Decode what comes until the socket is closed, behind a fence where the kernel has any."""
    pixels = _Pixels(int(sys.argv[1]))
    _restrict()
    enter_decoder_fence()
    with socket.socket(fileno=os.dup(0)) as connection:
        connection.sendall(LENGTH.pack(len(_READY)) + _READY)
        while (head := _frame(connection)) is not None:
            data = _frame(connection)
            if data is None:
                break
            answer = json.dumps(_answer(json.loads(head), data, pixels)).encode()
            connection.sendall(LENGTH.pack(len(answer)) + answer)
    return 0


class _Pixels:
    """The file for the pixels, mapped as large as it had to be: pages that are there cost least."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._mapped: mmap.mmap | None = None

    def put(self, rgb: Pixels) -> None:
        """Write a picture's pixels at the file's beginning."""
        if self._mapped is None or len(self._mapped) < len(rgb):
            os.ftruncate(self._number, len(rgb))
            self._mapped = mmap.mmap(self._number, len(rgb))
        self._mapped[: len(rgb)] = rgb


def _answer(asked: dict[str, Any], data: bytes, pixels: _Pixels) -> dict[str, Any]:
    limits = Limits(**asked["limits"])
    _give_time(limits.decode_s)
    try:
        if asked["mode"] is None:
            return {"size": measure_picture(data, limits), "only_colour": ""}
        picture = decode_picture(data, limits, asked["mode"])
    except PackError as error:
        return {"error": error.kind, "message": error.message, "hint": error.hint}
    pixels.put(picture.rgb)
    return {"size": picture.size, "only_colour": picture.only_colour}


def _frame(connection: socket.socket) -> bytes | None:
    length = _exactly(connection, LENGTH.size)
    return None if length is None else _exactly(connection, LENGTH.unpack(length)[0])


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        received = connection.recv_into(view)
        if not received:
            return None
        view = view[received:]
    return bytes(data)


def _restrict() -> None:
    """End with the parent; leave no core; open and take no more than a decoder needs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C is for the server
    die_with_parent()
    bounds = (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_AS, _MEMORY_BYTES),
    )
    for kind, most in bounds:
        with contextlib.suppress(ValueError, OSError):  # macOS knows no bound of addresses
            resource.setrlimit(kind, (most, most))


def _give_time(seconds: float) -> None:
    """Bound the processor's time for what comes next, in case that nobody is there to kill us."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime + seconds + _SPARE_S)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (until, hard))


def enter_decoder_fence() -> Standing:
    """Raise the fence around this process, which decodes pictures, and return which one stands.

    It keeps what is open, reads its Python, and can make, reach and start nothing. Behind a
    gateway's fence it is one more; call it before there is a second thread.
    """
    return raise_fence(decoder_fence(this_place(os.environ)))


if __name__ == "__main__":
    sys.exit(main())
