"""The receipt of a generation: what was checked, how, and what the files looked like then."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pack.format import canonical, records
from llava_pack.format.errors import IntegrityError
from llava_target import disk

NAME = "receipt.json"
SCHEMA = 1
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
    python: str
    smoke: Mapping[str, Any]
    step_ms: Mapping[str, int]
    """How long each step took."""
    seal: Mapping[str, Any]
    """By path below the generation: inode, size and modification time in nanoseconds."""


def write(folder: Path, receipt: Receipt) -> None:
    """Complete a staged generation."""
    disk.write_file(folder / NAME, canonical.dumps(records.encode(receipt)), 0o444)


def void(folder: Path) -> None:
    """Say that a generation is not complete any more, before its first file goes."""
    (folder / NAME).unlink(missing_ok=True)
    disk.sync(folder)


def read(folder: Path) -> Receipt | None:
    """Return the receipt of a generation, None where it is not complete."""
    try:
        data = (folder / NAME).read_bytes()
        value = canonical.loads(data, max_bytes=_MAX_BYTES)
    except (OSError, IntegrityError):
        return None
    return records.decode(Receipt, value, records.Defects())


def seal(folder: Path) -> dict[str, list[int]]:
    """Return inode, size and modification time of every file of the model, and of the manifest."""
    paths = [folder / "MANIFEST.json"]
    paths += sorted(path for path in (folder / "model").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _facts(path) for path in paths}


def intact(folder: Path, receipt: Receipt) -> bool:
    """Say whether the files look as they did when they were verified."""
    python = folder / "venv" / "bin" / "python"
    return seal(folder) == dict(receipt.seal) and os.access(python, os.X_OK)


def _facts(path: Path) -> list[int]:
    facts = path.stat()
    return [facts.st_ino, facts.st_size, facts.st_mtime_ns]
