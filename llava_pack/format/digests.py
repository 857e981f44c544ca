"""SHA-256 of streams, in chunks, so that memory does not grow with the file."""

import hashlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

READ_BYTES = 1024 * 1024


def sha256_stream(stream: BinaryIO, on_bytes: Callable[[int], None] | None = None) -> str:
    """Return the digest of what is left in `stream`, as 64 hex digits; `on_bytes` hears sizes."""
    return copy_hashing(stream, None, on_bytes)[1]


class Readable(Protocol):
    """What bytes can be read from."""

    def read(self, size_bytes: int, /) -> bytes:
        """Return at most so many bytes, none at the end."""


def copy_hashing(
    source: Readable, destination: BinaryIO | None, on_bytes: Callable[[int], None] | None = None
) -> tuple[int, str]:
    """Copy what is left in `source`, and return the size and digest of the bytes written.

    Args:
        source: read to its end, not closed.
        destination: buffered, so that it takes whole chunks; neither flushed nor closed. None to
            hash alone.
        on_bytes: told the size of each chunk after it was written.
    """
    digest = hashlib.sha256()
    size = 0
    while chunk := source.read(READ_BYTES):
        digest.update(chunk)
        if destination is not None:
            destination.write(chunk)
        size += len(chunk)
        if on_bytes is not None:
            on_bytes(len(chunk))
    return size, digest.hexdigest()
