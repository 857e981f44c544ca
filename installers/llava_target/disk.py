"""Writes that survive a power cut: written beside, flushed, renamed."""

import errno
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from llava_pack.format.errors import SpaceError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SYNC_THREADS = 8


@contextmanager
def room_on(folder: Path) -> Iterator[None]:
    """Turn a full disk, or a quota used up, into a SpaceError about the place of `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise SpaceError(
            f"no space left, {free_bytes(folder)} bytes are free",
            subject=str(folder),
            hint="free some space, then run the same command again: it goes on where it stopped",
        ) from error


def existing(path: Path) -> Path:
    """Return the path itself, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write where `folder` is, or would be."""
    facts = os.statvfs(existing(folder))
    return facts.f_bavail * facts.f_frsize


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file by `data`, at once and for good."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    with beside.open("xb") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    beside.rename(path)
    sync(path.parent)


def point(link: Path, target: str) -> None:
    """Replace a symbolic link by one to `target`, at once and for good."""
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.rename(link)
    sync(link.parent)


def sync(path: Path) -> None:
    """Flush one file or folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Flush every file and folder below `root`; links need their folder only."""
    paths = [root, *(path for path in root.rglob("*") if not path.is_symlink())]
    with ThreadPoolExecutor(_SYNC_THREADS) as threads:
        list(threads.map(sync, paths))


def remove_tree(root: Path) -> None:
    """Remove a file or folder where it exists; a link is removed itself."""
    if root.is_symlink() or root.is_file():
        root.unlink()
    elif root.exists():
        shutil.rmtree(root)


def link_or_copy(source: Path, destination: Path) -> None:
    """Make `destination` the same file as `source`, or a copy where links cannot be made."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, destination)
    except OSError as error:
        if error.errno in FULL:
            raise
        shutil.copy2(source, destination)
