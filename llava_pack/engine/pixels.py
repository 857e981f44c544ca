"""Pixels as bytes, or as a mapped file in memory: what passes them on holds a piece at a time."""

import mmap
import os
import tempfile
from collections.abc import Iterator

Pixels = bytes | mmap.mmap
"""Rows of RGB bytes. Both have a length, and a slice of both is bytes."""
_PIECE_BYTES = 1 << 20


def pieces(pixels: Pixels) -> Iterator[bytes]:
    """Yield the bytes piece by piece; what was read of a mapped file does not stay mapped."""
    for begin in range(0, len(pixels), _PIECE_BYTES):
        piece = pixels[begin : begin + _PIECE_BYTES]
        yield piece
        if isinstance(pixels, mmap.mmap):
            pixels.madvise(mmap.MADV_DONTNEED, begin, len(piece))


def kept(file: int, size: int) -> mmap.mmap:
    """Return a copy of a file's first bytes that lies in memory, outside of this process's own.

    It is gone once nothing holds it.

    Args:
        file: its descriptor.
        size: bytes to copy, one at least.

    Raises:
        EOFError: the file is shorter.
        OSError: there is no memory, or no descriptor.
    """
    own = memory_file()
    try:
        for begin in range(0, size, _PIECE_BYTES):
            wanted = min(_PIECE_BYTES, size - begin)
            piece = os.pread(file, wanted, begin)
            if len(piece) != wanted or os.pwrite(own, piece, begin) != wanted:
                raise EOFError
        return mmap.mmap(own, size, access=mmap.ACCESS_READ)
    finally:
        os.close(own)


def memory_file() -> int:
    """Return the descriptor of a file that no folder lists, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("picture")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
