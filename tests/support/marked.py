"""Processes that are found by a word in their environment, wherever they have gone."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


def marked(word: str) -> dict[int, str]:
    """Return the processes whose environment has a word, and their command lines; no zombies."""
    return {
        int(process.name): _read(process / "cmdline").replace("\0", " ")
        for process in _processes()
        if word in _read(process / "environ")
    }


def parent(pid: int) -> int:
    """Return the parent of a process."""
    return int(_read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[1])


def _processes() -> Iterator[Path]:
    return (one for one in Path("/proc").iterdir() if one.name.isdecimal())


def _read(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_bytes().decode(errors="replace")
    return ""
