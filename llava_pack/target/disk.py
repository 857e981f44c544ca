"""What is asked of a disk: room, flushes, links, clones, and whose a file is."""

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from llava_pack.format import files
from llava_pack.format.errors import SpaceError
from llava_pack.format.text import human_bytes

SHORT = files.FULL | {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""What this machine is short of, whichever file it was that could not be opened or read."""
_OPTICAL = 11  # Source: Linux, Documentation/admin-guide/devices.txt
_FICLONE = 0x40049409  # Source: linux/fs.h, _IOW(0x94, 9, int)


@contextmanager
def room_on(folder: Path) -> Iterator[None]:
    """Turn a full disk, or a quota used up, into a SpaceError about the place of `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno not in files.FULL:
            raise
        raise SpaceError(
            f"no space left, {human_bytes(free_bytes(folder))} are free",
            subject=str(folder),
            hint="free some space, then run the same command again: it resumes where it stopped",
        ) from error


def existing(path: Path) -> Path:
    """Return the path itself, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write where `folder` is, or would be."""
    return shutil.disk_usage(existing(folder)).free


def point(link: Path, target: str) -> None:
    """Replace a symbolic link by one to `target`, for good; nobody else may do so meanwhile."""
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.rename(link)
    files.sync(link.parent)


def sync_all(root: Path) -> None:
    """Flush the whole file system that `root` is on: for a tree, far less work than each file."""
    descriptor = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:  # Source: syncfs(2)
            raise OSError(ctypes.get_errno(), "cannot be flushed", str(root))
    finally:
        os.close(descriptor)


@contextmanager
def settling(root: Path, *, without: Path) -> Iterator[None]:
    """Remove a part of a tree and flush the rest while the block runs; all have ended after it.

    Raises:
        OSError: the part cannot be removed, or a write did not reach the disk.
    """
    with ThreadPoolExecutor(1) as pool:
        done = [pool.submit(remove_tree, without), pool.submit(sync_all, root)]
        yield
        for one in done:
            one.result()


def clone(source: BinaryIO, destination: BinaryIO) -> bool:
    """Have an empty file share the blocks of another one; False where that cannot be."""
    import fcntl

    try:
        fcntl.ioctl(destination.fileno(), _FICLONE, source.fileno())
    except OSError as error:
        if error.errno in files.FULL:
            raise
        return False
    return True


def write_all(stream: BinaryIO, data: bytes) -> None:
    """Write all of `data` to an unbuffered file, which may take less of it at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]


def one_reader(path: Path) -> bool:
    """Say whether a place is on an optical drive or behind USB: two readers slow those down."""
    try:
        number = path.stat().st_dev
    except OSError:  # it was pulled
        return False
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    return os.major(number) == _OPTICAL or "/usb" in str(device)


def only_ours(path: Path, top: Path) -> bool:
    """Say whether only this account can change a file, or put another one in its place.

    Args:
        path: of the file.
        top: it and what is below belong to this account; what is above may be the system's.
    """
    for place in (path, *path.parents):
        facts = place.lstat()
        below = place.is_relative_to(top)
        sticky = not below and facts.st_mode & stat.S_ISVTX
        if facts.st_uid not in ({os.geteuid()} if below else {os.geteuid(), 0}):
            return False
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
            return False
    return True


def nobody_writes(stream: BinaryIO) -> bool:
    """Say whether no process has a file open for writing. Source: fcntl(2), F_SETLEASE."""
    import fcntl

    try:
        fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


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
        if error.errno in files.FULL:
            raise
        shutil.copy2(source, destination)
