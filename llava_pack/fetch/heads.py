"""The first bytes of remote files, without the rest: what a weight file says of its tensors."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.remote import RemoteFile
from llava_pack.fetch.transfer import cached
from llava_pack.fetch.transport import Interrupted, Transport
from llava_pack.format.errors import PackError

_CONNECTIONS = 8


def remote_heads(
    files: Mapping[str, RemoteFile], sizes: Mapping[str, int], cache: Cache
) -> dict[str, bytes]:
    """Return the first bytes of each file; those are left out whose server does not give them.

    Args:
        files: by path.
        sizes: bytes that are wanted of each.
        cache: a file that is in it is read there.
    """
    with (
        Transport(connections=_CONNECTIONS, connect_s=15.0, read_s=60.0) as transport,
        ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="head") as pool,
    ):
        heads = pool.map(lambda path: _head(files[path], sizes[path], cache, transport), files)
        return {path: head for path, head in zip(files, heads, strict=True) if head is not None}


def _head(file: RemoteFile, size: int, cache: Cache, transport: Transport) -> bytes | None:
    if held := cached(cache, file):
        with held.path.open("rb") as stream:
            return stream.read(size)
    head = bytearray()
    try:
        with transport.open_stream(file, {"Range": f"bytes=0-{size - 1}"}) as response:
            for chunk in response.iter_raw():  # a server without ranges sends all: stop in time
                head += chunk
                if len(head) >= size:
                    break
    except (Interrupted, PackError):  # fetching the whole file will say what is wrong
        return None
    return bytes(head[:size])
