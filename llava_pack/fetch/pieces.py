"""Pieces of remote files, without the rest: what a weight file says of its tensors."""

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.remote import RemoteFile
from llava_pack.fetch.transfer import cached
from llava_pack.fetch.transport import Interrupted, Transport
from llava_pack.format.errors import PackError

_CONNECTIONS = 8
_PARTIAL = 206


class Span(NamedTuple):
    """A piece of a file: its path, the offset of its first byte, and the one after its last."""

    path: str
    start: int
    end: int


def read_span(path: Path, span: Span) -> bytes:
    """Return a piece of a file on this machine."""
    with path.open("rb") as stream:
        stream.seek(span.start)
        return stream.read(span.end - span.start)


def remote_pieces(
    files: Mapping[str, RemoteFile], spans: Collection[Span], cache: Cache
) -> dict[Span, bytes]:
    """Return pieces of files; those are left out that a server does not give by themselves.

    Args:
        files: by path.
        spans: what is wanted of them.
        cache: a file that is in it is read there.
    """
    with (
        Transport(connections=_CONNECTIONS, connect_s=15.0, read_s=15.0) as transport,
        ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="piece") as pool,
    ):
        pieces = pool.map(lambda span: _piece(files[span.path], span, cache, transport), spans)
        return {span: one for span, one in zip(spans, pieces, strict=True) if one is not None}


def _piece(file: RemoteFile, span: Span, cache: Cache, transport: Transport) -> bytes | None:
    if held := cached(cache, file):
        return read_span(held.path, span)
    size, data = span.end - span.start, bytearray()
    try:
        headers = {"Range": f"bytes={span.start}-{span.end - 1}"}
        with transport.open_stream(file, headers) as response:
            if response.status_code != _PARTIAL and span.start:
                return None
            for chunk in response.iter_raw():  # a server without ranges sends all: stop in time
                data += chunk
                if len(data) >= size:
                    break
    except (Interrupted, PackError):  # fetching the whole file will say what is wrong
        return None
    return bytes(data[:size])
