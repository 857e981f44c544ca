"""The receipt of a generation: what was checked, how, and what the files looked like then."""

import errno
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pack.format import canonical, files, records
from llava_pack.format.errors import IntegrityError, SpaceError
from llava_pack.target import disk

NAME = "receipt.json"
SEAL = "seal.json"
SCHEMA = 2
_MAX_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Written last into a staged generation: one that has it is complete."""

    schema: int = SCHEMA
    bundle_id: str
    recipe: str
    release: int
    generation: int
    installed_at: int
    """UTC seconds, by the clock of this machine."""
    installed_by: str
    verified: Mapping[str, Any]
    """How the bundle was trusted: `by` and `signature`."""
    files: int
    size_bytes: int
    hashed_with: str
    placed: Mapping[str, int]
    """By way (stored, moved, linked, cloned, copied), how many bytes came."""
    preflight: tuple[Mapping[str, Any], ...]
    """Each fact of the machine that was held against a need."""
    python: str
    smoke: Mapping[str, Any]
    """What the model answered to the known questions."""
    silence: Mapping[str, Any]
    """Who was kept from the network while this was made, and how."""
    step_ms: Mapping[str, int]
    """How long each step took."""
    kept: tuple[str, ...] = ()
    """Names of the caller's variables that it was tested with."""


def write(folder: Path, receipt: Receipt) -> None:
    """Complete a staged generation."""
    files.write(folder / NAME, canonical.dumps(records.encode(receipt)), 0o444)


def void(folder: Path) -> None:
    """Say that a generation is not complete any more, before its first file goes."""
    (folder / NAME).unlink(missing_ok=True)
    files.sync(folder)


def read(folder: Path) -> Receipt | None:
    """Return the receipt of a generation, None where it is not complete."""
    return records.decode(Receipt, _load(folder / NAME), records.Defects())


def seal(folder: Path) -> None:
    """Keep what the files look like, now that they are known to be right."""
    files.write(folder / SEAL, canonical.dumps(_facts(folder)), 0o444)


def sealed(folder: Path) -> set[str]:
    """Return the names of the files that a seal is about."""
    return {*_facts(folder)}


def clear(folder: Path) -> None:
    """Remove what a seal left that was killed: a generation holds nothing beside what is told."""
    files.clear(folder / SEAL)


@contextmanager
def unshaken(roots: Iterable[Path]) -> Iterator[None]:
    """Seal generations anew after links to files that they share came or went, which is no harm.

    Where a full disk has no room for that, the files are hashed when they are looked at next.
    """
    sealed = [root for root in roots if not broken(root)]
    try:
        yield
    finally:
        for root in filter(Path.exists, sealed):
            with suppress(SpaceError), disk.room_on(root):
                seal(root)


def broken(folder: Path, *, ctime: bool = True) -> tuple[str, ...]:
    """Return the files that do not look as they did when they were verified.

    Args:
        folder: of the generation.
        ctime: False overlooks the time of the last change of links, owner or permissions.
    """
    kept = _load(folder / SEAL)
    now = _facts(folder)
    if not isinstance(kept, dict):
        return (SEAL,)
    parts = 4 if ctime else 3
    names = sorted({*kept, *now})
    return tuple(n for n in names if kept.get(n, [])[:parts] != now.get(n, [])[:parts])


def _facts(folder: Path) -> dict[str, list[int]]:
    """Return inode, size, mtime and ctime of the manifest and of every file of the model."""
    paths = [folder / "MANIFEST.json"]
    paths += sorted(path for path in (folder / "model").rglob("*") if path.is_file())
    found = {str(path.relative_to(folder)): path.stat() for path in paths if path.exists()}
    return {
        name: [facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
        for name, facts in found.items()
    }


def _load(path: Path) -> Any:
    try:
        return canonical.loads(path.read_bytes(), max_bytes=_MAX_BYTES)
    except (OSError, IntegrityError) as error:
        # what cannot be read now is not gone: a generation without a receipt is removed
        if isinstance(error, OSError) and error.errno in {*disk.SHORT, errno.EIO}:
            raise
        return None
