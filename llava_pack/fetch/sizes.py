"""Sizes of remote files without fetching them: asked once, in parallel, and remembered."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.patience import Interrupted
from llava_pack.fetch.remote import RemoteFile, Sha256
from llava_pack.fetch.transport import Transport
from llava_pack.format.errors import PackError
from llava_pack.format.files import write

_CONNECTIONS = 16
_RANGE = re.compile(r"bytes 0-0/(\d+)")


def remote_sizes(
    files: Sequence[RemoteFile], cache: Cache, *, network: Mapping[str, str] | None = None
) -> dict[str, int | None]:
    """Return the size of each file by its name; None where its server does not say.

    Args:
        files: those with a promised size are not asked for.
        cache: sizes are kept in it by digest.
        network: certificates and proxies beside the environment's.
    """
    folder = cache.root / "sizes"
    folder.mkdir(exist_ok=True)
    sizes = {file.name: _known(file, cache, folder) for file in files}
    asked = [file for file in files if sizes[file.name] is None]
    if asked:
        with (
            Transport(
                connections=_CONNECTIONS, connect_s=10.0, read_s=20.0, network=network
            ) as transport,
            ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="size") as pool,
        ):
            for file, size_bytes in zip(
                asked, pool.map(lambda file: _ask(file, transport), asked), strict=True
            ):
                sizes[file.name] = size_bytes
                if size_bytes is not None and isinstance(file.digest, Sha256):
                    write(folder / file.digest.hex, b"%d" % size_bytes, durable=False)
    return sizes


def _known(file: RemoteFile, cache: Cache, folder: Path) -> int | None:
    if file.size_bytes is not None:
        return file.size_bytes
    if urlsplit(file.url).scheme == "file":
        local = Path(unquote(urlsplit(file.url).path))
        return local.stat().st_size if local.is_file() else None
    if not isinstance(file.digest, Sha256):
        return None
    if held := cache.path(file.digest.hex):
        return held.stat().st_size
    try:
        return int((folder / file.digest.hex).read_text("ascii"))
    except (FileNotFoundError, ValueError):
        return None


def _ask(file: RemoteFile, transport: Transport) -> int | None:
    """Return the size that the answer to a request for one byte names."""
    try:
        with transport.open_stream(file, {"Range": "bytes=0-0"}) as response:
            match = _RANGE.fullmatch(response.headers.get("content-range", ""))
            length = response.headers.get("content-length", "")
            if match:
                return int(match[1])
            return int(length) if response.status_code == 200 and length.isdecimal() else None
    except (Interrupted, PackError):
        return None
