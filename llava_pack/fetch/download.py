"""Every byte that comes from elsewhere comes through here: hub files, wheels, Python."""

import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from threading import Event

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.hub_cache import HubCache, hub_cache_root, open_hub_cache
from llava_pack.fetch.locks import Stopped
from llava_pack.fetch.patience import Patience
from llava_pack.fetch.remote import Digest, FetchedFile, GitBlob, RemoteFile, Sha256
from llava_pack.fetch.transfer import Transfer, cached
from llava_pack.fetch.transport import Transport
from llava_pack.format.errors import SpaceError
from llava_pack.format.progress import Progress, Silent
from llava_pack.format.text import human_bytes

__all__ = ["Digest", "FetchedFile", "GitBlob", "Patience", "RemoteFile", "Sha256", "download_all"]

log = logging.getLogger(__name__)


def download_all(
    files: Iterable[RemoteFile],
    cache: Cache,
    *,
    connections: int = 8,
    progress: Progress | None = None,
    patience: Patience | None = None,
    what: str = "fetch",
    network: Mapping[str, str] | None = None,
) -> dict[RemoteFile, FetchedFile]:
    """Return every file, verified, in the cache; fetch what is not there, in parallel.

    What was fetched before a failure is kept, and the next call goes on from there.

    Args:
        files: what is wanted; the same content under two names is fetched once.
        cache: where verified and unfinished files live.
        connections: files in flight at once.
        progress: told of one phase, with bytes; a restart counts bytes back.
        patience: how long to keep trying; the default suits a person who waits.
        what: how the phase is called.
        network: certificates and proxies beside the environment's, such as pip's configuration has.

    Raises:
        IntegrityError: bytes differ from the promised size or digest.
        SpaceError: the cache's disk is too small, or filled up.
        NetworkError: a host cannot be reached.
        AccessError: a server asks for a token or a permission.
        FetchError: a transfer failed for another reason.
        UsageError: the cache cannot be written.
    """
    wanted = list(dict.fromkeys(files))
    hub_cache = open_hub_cache(hub_cache_root(os.environ))
    _check_space(wanted, cache, hub_cache)
    told = progress or Silent()
    told.start(what, _total(wanted))
    try:
        return _run(wanted, cache, hub_cache, connections, told, patience or Patience(), network)
    finally:
        told.done()


def _run(
    wanted: Sequence[RemoteFile],
    cache: Cache,
    hub_cache: HubCache,
    connections: int,
    progress: Progress,
    patience: Patience,
    network: Mapping[str, str] | None,
) -> dict[RemoteFile, FetchedFile]:
    """Fetch the largest first, so that no large one is left for the end alone."""
    stop, taken = Event(), list[int]()
    transport = Transport(
        connections=connections,
        connect_s=patience.connect_s,
        read_s=patience.read_s,
        network=network,
    )
    with transport, ThreadPoolExecutor(connections, thread_name_prefix="fetch") as pool:
        transfer = Transfer(
            transport=transport,
            cache=cache,
            hub_cache=hub_cache,
            patience=patience,
            stop=stop,
            count=progress.advance,
            taken=taken.append,
        )
        order = sorted(wanted, key=lambda file: file.size_bytes or 0, reverse=True)
        futures: dict[RemoteFile, Future[FetchedFile]] = {}
        try:  # from the first one on: Ctrl-C may come before the last one is begun
            for file in order:
                futures[file] = pool.submit(transfer.fetch, file)
            wait(futures.values(), return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            for future in futures.values():
                future.cancel()
            transport.hang_up()
    if taken:
        progress.note(f"  {human_bytes(sum(taken))} taken from the Hugging Face cache")
    _raise_first(futures.values())
    return {file: futures[file].result() for file in wanted}


def _raise_first(futures: Iterable[Future[FetchedFile]]) -> None:
    errors = [e for f in futures if not f.cancelled() and (e := f.exception()) is not None]
    real = [error for error in errors if not isinstance(error, Stopped)]
    for other in real[1:]:
        log.info("also: %s", other)
    for error in real or errors:
        raise error


def _total(wanted: Sequence[RemoteFile]) -> int | None:
    sizes = [file.size_bytes for file in wanted]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _check_space(wanted: Sequence[RemoteFile], cache: Cache, hub_cache: HubCache) -> None:
    once = {file.key: file for file in wanted}.values()
    missing_bytes = sum(_missing_bytes(file, cache, hub_cache) for file in once)
    free_bytes = shutil.disk_usage(cache.root).free
    if missing_bytes > free_bytes:
        raise SpaceError(
            f"not enough disk for the cache: expected {human_bytes(missing_bytes)} free, "
            f"got {human_bytes(free_bytes)}",
            subject=str(cache.root),
            hint="free space there, or set LLAVA_PACK_CACHE to a larger disk",
        )


def _missing_bytes(file: RemoteFile, cache: Cache, hub_cache: HubCache) -> int:
    if file.size_bytes is None or cached(cache, file):
        return 0
    held = hub_cache.holds(file)
    if held is not None and held.stat().st_dev == cache.root.stat().st_dev:
        return 0  # a link
    part = cache.parts / f"{file.key}.part"
    return max(0, file.size_bytes - (part.stat().st_size if part.exists() else 0))
