"""Pieces of remote files, without the rest: what a weight file says of its tensors."""

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import httpx

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.patience import Interrupted
from llava_pack.fetch.remote import RemoteFile
from llava_pack.fetch.transfer import CONTENT_RANGE, cached
from llava_pack.fetch.transport import Transport
from llava_pack.format.errors import PackError

_CONNECTIONS = 8
_WITHIN_S = 60.0
"""For one piece: a server that is slower than that is asked for the whole file, which says so."""


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
        futures = {
            span: pool.submit(_piece, files[span.path], span, cache, transport) for span in spans
        }
        try:
            pieces = {span: future.result() for span, future in futures.items()}
        finally:  # a person who stops it does not wait for servers
            transport.hang_up()
    return {span: one for span, one in pieces.items() if one is not None}


def _piece(file: RemoteFile, span: Span, cache: Cache, transport: Transport) -> bytes | None:
    if held := cached(cache, file):
        return read_span(held.path, span)
    size, data, until = span.end - span.start, bytearray(), monotonic() + _WITHIN_S
    try:
        headers = {"Range": f"bytes={span.start}-{span.end - 1}"}
        with transport.open_stream(file, headers) as response:
            if not _fits(response, span, file.size_bytes):
                return None
            for chunk in response.iter_raw():  # a server without ranges sends all: stop in time
                data += chunk
                if len(data) >= size or monotonic() > until:
                    break
    except (Interrupted, PackError):  # fetching the whole file will say what is wrong
        return None
    return bytes(data[:size]) if len(data) >= size else None


def _fits(response: httpx.Response, span: Span, size_bytes: int | None) -> bool:
    """Say whether what follows begins with a piece, and is of the file that was listed."""
    headers = response.headers
    if headers.get("content-encoding", "identity") != "identity":
        return False
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        match = CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        return match is not None and int(match[1]) == span.start and match[3] == str(size_bytes)
    whole = response.status_code == HTTPStatus.OK and span.start == 0
    return whole and headers.get("content-length") == str(size_bytes)
