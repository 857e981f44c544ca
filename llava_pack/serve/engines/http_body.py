"""What is sent over HTTP: JSON with pictures in it, of which a piece is held at a time."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from llava_pack.engine.pixels import pieces
from llava_pack.engine.port import Picture

PPM_URL = b"data:image/x-portable-pixmap;base64,"


@dataclass(frozen=True)
class PictureText:
    """A picture as the base64 of a PPM file, which is its pixels behind a head.

    Source: netpbm.sourceforge.net, ppm(5); RFC 4648, section 4.
    """

    picture: Picture

    @cached_property
    def head(self) -> bytes:
        """The file's head; as long as three pixels or so, that base64 may begin anew behind it."""
        size = f"{self.picture.width} {self.picture.height}\n255\n".encode()
        return b"P6" + b"\n" * (3 - (len(size) + 2) % 3) + size

    def __len__(self) -> int:
        """Return the number of bytes."""
        return (len(self.head) + len(self.picture.rgb)) // 3 * 4

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes."""
        yield base64.b64encode(self.head)
        rest = b""
        for piece in pieces(self.picture.rgb):
            data = rest + piece if rest else piece
            whole = len(data) // 3 * 3
            rest = data[whole:]
            yield base64.b64encode(data[:whole] if rest else data)


@dataclass(frozen=True)
class Body:
    """The parts of a body, one behind the other."""

    parts: Sequence[bytes | PictureText] = ()

    def __len__(self) -> int:
        """Return the number of bytes."""
        return sum(map(len, self.parts))

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes, no more than a megabyte or so at a time."""
        for part in self.parts:
            if isinstance(part, bytes):
                yield part
            else:
                yield from part.pieces()


NO_BODY = Body()
