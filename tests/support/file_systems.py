"""Real file systems of media: FAT32, exFAT, ISO 9660 with Joliet, ext4; by FUSE where need be."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KINDS = ("fat32", "exfat", "ext4")
"""That can be written."""


def possible() -> bool:
    """Say whether this account may mount."""
    return os.geteuid() == 0 and Path("/dev/fuse").exists() and Path("/dev/loop-control").exists()


@contextmanager
def mounted(image: Path, kind: str, *, read_only: bool = False) -> Iterator[Path]:
    """Mount the file system in an image, in a folder beside it.

    Args:
        image: that `made` or `joliet` wrote.
        kind: `fat32`, `exfat`, `ext4` or `joliet`.
        read_only: nothing can be written.
    """
    point = image.with_suffix(".mounted")
    point.mkdir()
    loop = ""
    read = ["-o", "ro"] if read_only else []
    if kind in {"exfat", "ext4"}:
        loop = _run("losetup", "--find", "--show", *(["--read-only"] if read_only else []), image)
    commands: dict[str, list[str | Path]] = {
        "fat32": ["fusefat", "-o", "ro" if read_only else "rw+", image, point],
        "exfat": ["mount.exfat-fuse", *read, loop, point],
        "ext4": ["mount", *read, loop, point],
        "joliet": ["fuseiso", image, point],
    }
    try:
        _run(*commands[kind])
        yield point
    finally:
        _run("umount", point, check=False)
        for _ in range(100):  # a FUSE server writes out after it was unmounted
            if not _busy(image):
                break
            time.sleep(0.05)
        if loop:
            _run("losetup", "--detach", loop, check=False)
        point.rmdir()


def made(image: Path, kind: str, size_bytes: int, *, clusters: str = "4K") -> Path:
    """Write an empty file system into an image; exFAT counts in `clusters`."""
    with image.open("wb") as stream:
        stream.truncate(size_bytes)
    programs: dict[str, list[str | Path]] = {
        "fat32": ["mkfs.vfat", "-F", "32", image],
        "exfat": ["mkfs.exfat", "-c", clusters, image],
        "ext4": ["mkfs.ext4", "-q", image],
    }
    _run(*programs[kind])
    return image


def joliet(image: Path, folder: Path) -> Path:
    """Write a folder as a CD or DVD of Windows has it: names of 64 letters, no Rock Ridge."""
    _run("genisoimage", "-quiet", "-J", "-input-charset", "utf-8", "-o", image, folder)
    return image


def missing() -> list[str]:
    """Return the programs that are not installed."""
    names = ("fusefat", "mount.exfat-fuse", "fuseiso", "genisoimage", "mkfs.vfat", "mkfs.exfat")
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return [name for name in names if shutil.which(name, path=path) is None]


def _busy(image: Path) -> bool:
    done = subprocess.run(["pgrep", "-f", str(image)], capture_output=True, check=False)
    return done.returncode == 0


def _run(*command: str | Path, check: bool = True) -> str:
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{words}: {done.stderr}")
    return done.stdout.strip()
