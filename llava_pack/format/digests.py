"""SHA-256 of streams, in chunks, so that memory does not grow with the file."""

import hashlib
from collections.abc import Callable
from typing import BinaryIO

CHUNK_BYTES = 1024 * 1024


def sha256_stream(stream: BinaryIO, on_bytes: Callable[[int], None] | None = None) -> str:
    """Return the digest of what is left in `stream`, as 64 hex digits.

    Args:
        stream: read to its end, not closed.
        on_bytes: told the size of each chunk after it was hashed.
    """
    return _pump(stream, None, on_bytes)[1]


def copy_hashing(
    source: BinaryIO, destination: BinaryIO, on_bytes: Callable[[int], None] | None = None
) -> tuple[int, str]:
    """Copy what is left in `source`, and return the size and digest of the bytes written.

    Args:
        source: read to its end, not closed.
        destination: written, neither flushed nor closed.
        on_bytes: told the size of each chunk after it was written.
    """
    return _pump(source, destination, on_bytes)


def _pump(
    source: BinaryIO, destination: BinaryIO | None, on_bytes: Callable[[int], None] | None
) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        if destination is not None:
            destination.write(chunk)
        size += len(chunk)
        if on_bytes is not None:
            on_bytes(len(chunk))
    return size, digest.hexdigest()
