"""Floors proved by the wheels' own files, each wheel read once and remembered by its digest."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

from llava_pack.fetch.cache import Cache
from llava_pack.format import canonical, files, records
from llava_pack.format.errors import IntegrityError
from llava_pack.format.progress import Progress
from llava_pack.lock.wheel_needs import (
    SCANNER,
    ProvedFloors,
    ScannedWheel,
    proved_floors,
    scan_wheel,
)

_MAX_BYTES = 8 << 20


def prove(wheels: Mapping[str, str], arch: str, cache: Cache, progress: Progress) -> ProvedFloors:
    """Return what fetched wheels really need on `arch`.

    Args:
        wheels: sha256 by file name; all of them are in the cache.
        arch: of the target.
        cache: results are kept in it by digest.
        progress: told how many bytes of wheels were read.

    Raises:
        IntegrityError: a wheel is damaged.
    """
    paths = {name: path for name, digest in wheels.items() if (path := cache.path(digest))}
    known = {name: _recall(cache, digest) for name, digest in wheels.items()}
    new = {name: path for name, path in paths.items() if known[name] is None}
    progress.start("read what the packages require", sum(p.stat().st_size for p in new.values()))

    def scan(name: str) -> ScannedWheel:
        scanned = scan_wheel(new[name])
        _keep(cache, wheels[name], scanned)
        progress.advance(new[name].stat().st_size)
        return scanned

    largest_first = sorted(new, key=lambda name: new[name].stat().st_size, reverse=True)
    with ThreadPoolExecutor(cpu_count() or 1, thread_name_prefix="elf") as pool:
        found = dict(zip(largest_first, pool.map(scan, largest_first), strict=True))
    progress.done()
    whole = {name: one for name, one in {**known, **found}.items() if one is not None}
    return proved_floors(whole, arch)


def recalled(wheels: Mapping[str, str], arch: str, cache: Cache) -> ProvedFloors | None:
    """Return the same without reading a wheel; None where one has not been read before."""
    known = {name: _recall(cache, digest) for name, digest in wheels.items()}
    whole = {name: one for name, one in known.items() if one is not None}
    return proved_floors(whole, arch) if len(whole) == len(known) else None


def _place(cache: Cache, digest: str) -> Path:
    return cache.root / "elf" / f"{digest}.json"


def _recall(cache: Cache, digest: str) -> ScannedWheel | None:
    try:
        value = canonical.loads(_place(cache, digest).read_bytes(), max_bytes=_MAX_BYTES)
    except (OSError, IntegrityError):
        return None
    defects = records.Defects()
    found = records.decode(ScannedWheel, value, defects)
    return found if found is not None and not defects and found.scanner == SCANNER else None


def _keep(cache: Cache, digest: str, scanned: ScannedWheel) -> None:
    place = _place(cache, digest)
    place.parent.mkdir(exist_ok=True)
    files.write(place, canonical.dumps(records.encode(scanned)), durable=False)
