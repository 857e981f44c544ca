"""Files and folders that an installation makes, counted in the archives that are packed."""

import tarfile
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath

from llava_pack.format.manifest import FileEntry

_WRITTEN_BESIDE = 4
"""What an installer adds to a wheel: INSTALLER, REQUESTED, uv_cache.json, a program."""
_COMPILED = 4
"""One module in so many is compiled when the known questions are asked. Source: the demo."""
_STORE_FOLDERS = 256
_OWN = 40
"""The frame of a generation and of a prefix: receipt, seal, folders, the venv's own files."""


def installed_inodes(
    root: Path,
    entries: Iterable[FileEntry],
    elsewhere: Mapping[str, Path],
    twice: Collection[str] = (),
) -> int:
    """Return how many files and folders installing a staged bundle makes, at most.

    Args:
        root: of the staged bundle; the directories of its archives are read.
        entries: of its files, each of which goes into the store.
        elsewhere: by file name, the wheels that it leaves out, and that go there too.
        twice: file names of the wheels that both environments have; they share the files.
    """
    files = {entry.path: root / entry.path for entry in entries if entry.carried}
    files |= {f"wheels/{name}": path for name, path in elsewhere.items()}
    store = len(files) + min(len(files), _STORE_FOLDERS)
    archives = (file for path, file in files.items() if path.startswith("runtime/cpython-"))
    wheels = (file for path, file in files.items() if path.startswith("wheels/"))
    again = (file for path, file in files.items() if path.removeprefix("wheels/") in twice)
    environments = sum(map(wheel_inodes, wheels)) + sum(map(linked_inodes, again))
    return store + _OWN + sum(map(archive_inodes, archives)) + environments


def wheel_inodes(wheel: Path) -> int:
    """Return how many files and folders a wheel takes while it is installed, and compiled.

    Its folders are there twice: where the installer unpacks it, and in the environment, which
    shares the files.
    """
    with zipfile.ZipFile(wheel) as archive:
        files = [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]
    modules = sum(path.suffix == ".py" for path in files)
    return len(files) + 2 * len(_folders(files)) + modules // _COMPILED + _WRITTEN_BESIDE


def linked_inodes(wheel: Path) -> int:
    """Return how many more a wheel takes in a second environment, where its files are links."""
    with zipfile.ZipFile(wheel) as archive:
        files = [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]
    modules = sum(path.suffix == ".py" for path in files)
    return len(_folders(files)) + modules // _COMPILED + _WRITTEN_BESIDE


def archive_inodes(archive: Path) -> int:
    """Return how many files and folders an archive of an interpreter unpacks to."""
    with tarfile.open(archive, "r:gz") as members:
        names = {PurePosixPath(member.name) for member in members}
    return len(names | _folders(names))


def _folders(files: Iterable[PurePosixPath]) -> set[PurePosixPath]:
    return {parent for path in files for parent in path.parents if parent.name}
