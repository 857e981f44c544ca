"""The digest of a file and those of its chunks, in the one pass that reads it."""

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from llava_pack.format.chunks import CHUNK_BYTES
from llava_pack.format.digests import READ_BYTES, Readable


@dataclass(frozen=True, kw_only=True)
class FileDigests:
    """SHA-256, in hex digits, of a file and of each of its chunks."""

    size_bytes: int
    sha256: str
    chunks: tuple[str, ...]


def copy_in_chunks(
    source: Readable, destination: BinaryIO | None, on_bytes: Callable[[int], None]
) -> FileDigests:
    """Copy what is left in `source`, and return the digests of the bytes written.

    A thread hashes the chunks beside this one, so that both take the time of one where a processor
    is idle; a file of one chunk is hashed once.

    Args:
        source: read to its end, not closed.
        destination: buffered; neither flushed nor closed. None to hash alone.
        on_bytes: told the size of each read after it was written.
    """
    whole = hashlib.sha256()
    chunk = hashlib.sha256()
    chunks: list[str] = []
    size_bytes = 0
    beside: Future[None] | None = None
    with ThreadPoolExecutor(1) as pool:
        while data := source.read(READ_BYTES):
            if size_bytes and size_bytes % CHUNK_BYTES == 0:
                if beside is None:  # the first chunk is the whole so far
                    chunks.append(whole.hexdigest())
                else:
                    beside.result()
                    chunks.append(chunk.hexdigest())
                    chunk = hashlib.sha256()
                beside = pool.submit(chunk.update, data)
            elif beside is not None:
                beside.result()
                beside = pool.submit(chunk.update, data)
            whole.update(data)
            if destination is not None:
                destination.write(data)
            size_bytes += len(data)
            on_bytes(len(data))
    chunks.append((whole if beside is None else chunk).hexdigest())
    return FileDigests(size_bytes=size_bytes, sha256=whole.hexdigest(), chunks=tuple(chunks))
