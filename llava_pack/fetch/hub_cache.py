"""Files that the Hub's own client fetched before: taken by digest, never by name.

Its cache keeps files as `models--OWNER--NAME/blobs/ETAG`, and the ETag is the SHA-256 of a large
file and the git blob id of a small one. Nothing there is believed: every byte is hashed.

Source: huggingface_hub 2.4, constants.py (where it lies) and file_download.py (how it is laid out).
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.remote import FetchedFile, GitBlob, RemoteFile, Sha256
from llava_pack.format import files
from llava_pack.format.digests import READ_BYTES


def hub_cache_root(environ: Mapping[str, str]) -> Path:
    """Return where the Hub's client keeps repositories.

    >>> hub_cache_root({"HF_HOME": "/big/hf"}).as_posix()
    '/big/hf/hub'
    """
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if own := environ.get(variable):
            return _at_home(Path(own))
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _at_home(Path(environ.get("HF_HOME") or Path(base, "huggingface"), "hub"))


def _at_home(place: Path) -> Path:
    try:
        return place.expanduser()
    except RuntimeError:  # an account without a home
        return place


@dataclass(frozen=True, kw_only=True)
class HubCache:
    """The blobs that were there when it was opened, by their names."""

    blobs: Mapping[str, Path]

    def holds(self, file: RemoteFile) -> Path | None:
        """Return what should be a wanted file, by its name and size; not yet looked into."""
        match file.digest:
            case Sha256(hex=name) | GitBlob(oid=name):
                held = self.blobs.get(name)
            case _:
                return None
        try:
            fits = held is not None and file.size_bytes in {None, held.stat().st_size}
        except OSError:
            return None
        return held if fits else None


def open_hub_cache(root: Path) -> HubCache:
    """Return what a cache of the Hub's client holds; nothing where there is none."""
    try:
        return HubCache(blobs={path.name: path for path in root.glob("models--*/blobs/*")})
    except OSError:  # somebody else's
        return HubCache(blobs={})


def take(
    file: RemoteFile, held: Path, cache: Cache, count: Callable[[int], None]
) -> FetchedFile | None:
    """Return a wanted file out of the Hub's cache in ours; None where its bytes are others.

    It is linked where both lie on one disk, and copied elsewhere.

    Args:
        file: with a digest.
        held: what should be it.
        cache: ours.
        count: told of bytes as they are read, and of less than none where they are others.
    """
    own = cache.parts / f"{file.key}.taken"
    own.unlink(missing_ok=True)
    counted = 0
    try:
        try:
            files.link(held.resolve(), own)
            files.protect(own)
        except OSError:  # another disk, or somebody else's file
            own.unlink(missing_ok=True)
            shutil.copyfile(held, own)
        sha256 = hashlib.sha256()
        size_bytes = own.stat().st_size
        git = hashlib.sha1(f"blob {size_bytes}\0".encode(), usedforsecurity=False)
        with own.open("rb") as stream:
            while chunk := stream.read(READ_BYTES):
                sha256.update(chunk)
                if isinstance(file.digest, GitBlob):
                    git.update(chunk)
                counted += len(chunk)
                count(len(chunk))
        right = file.digest in {Sha256(sha256.hexdigest()), GitBlob(git.hexdigest())}
        if right and file.size_bytes in {None, size_bytes}:
            path = cache.adopt(own, sha256.hexdigest())
            if isinstance(file.digest, GitBlob):
                cache.remember(file.key, sha256.hexdigest())
            return FetchedFile(path, sha256.hexdigest(), size_bytes)
    except OSError:  # it is fetched, which says what is wrong with our own disk
        pass
    own.unlink(missing_ok=True)
    count(-counted)
    return None
