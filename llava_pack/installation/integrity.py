"""Whether the files of an installation are what its bundle id promises."""

import os
from collections.abc import Callable
from pathlib import Path

from llava_pack.format.digests import sha256_stream
from llava_pack.format.errors import IntegrityError
from llava_pack.format.manifest import FileEntry, Manifest
from llava_pack.format.pointers import installed_file
from llava_pack.format.progress import Progress
from llava_pack.format.sums import MANIFEST_NAME, SUMS_NAME, bundle_id, parse_sums
from llava_pack.installation.installed import Installation
from llava_pack.target import generations, receipt
from llava_pack.target.store import Store


def changed_files(item: Installation, progress: Progress) -> tuple[str, ...]:
    """Return the files that are not as they were when they were verified.

    Where links, owner or permissions alone changed (the medium's copy of a linked file was removed,
    say), the bytes are read again; if they are right, that is how the files look from now on.
    """
    if changed := receipt.broken(item.root, ctime=False):
        return changed
    return read_again(item, progress) if receipt.broken(item.root) else ()


def read_again(item: Installation, progress: Progress) -> tuple[str, ...]:
    """Return the files that are not what the bundle id promises, every byte read.

    Where all are right, how they look now is how they look from now on.
    """
    changed = unpromised(item.manifest, item.root, item.bundle_id)
    changed += rehash(item.manifest, item.root, Store(item.prefix).path, progress)
    if not changed and receipt.broken(item.root) and os.access(item.root, os.W_OK):
        receipt.seal(item.root)
    return changed


def rehash(
    manifest: Manifest, root: Path, packed: Callable[[str], Path], progress: Progress
) -> tuple[str, ...]:
    """Return the files of an installed model that are not what the manifest promised.

    A file that the installer finalised is derived again by its rule and compared.
    """
    rules = {rule.path for rule in manifest.rewrites if rule.installed is not None}
    entries = manifest.under("model")
    progress.start("hashing the installed model", sum(entry.size_bytes for entry in entries))
    changed = []
    for entry in entries:
        if entry.path in rules:
            same = _derived(manifest, entry, root, packed)
            progress.advance(entry.size_bytes)
        else:
            same = _digest(root / entry.path, progress.advance) == entry.sha256
        if not same:
            changed.append(entry.path)
    progress.done()
    return tuple(changed)


def unpromised(manifest: Manifest, root: Path, promised_id: str) -> tuple[str, ...]:
    """Return the manifest if the bundle's id does not cover it, and files that it does not know."""
    known = {entry.path for entry in manifest.under("model")}
    found = (path for path in (root / "model").rglob("*") if not path.is_dir())
    names = sorted(path.relative_to(root).as_posix() for path in found)
    return (
        *(() if _covered(root, promised_id) else (MANIFEST_NAME,)),
        *(name for name in names if name not in known),
    )


def _covered(root: Path, promised_id: str) -> bool:
    """Return whether SHA256SUMS is what the bundle's id says, and the manifest what that says."""
    try:
        sums = (root / SUMS_NAME).read_bytes()
        promised = parse_sums(sums).get(MANIFEST_NAME)
    except (OSError, IntegrityError):
        return False
    return bundle_id(sums) == promised_id and _digest(root / MANIFEST_NAME) == promised


def _derived(
    manifest: Manifest, entry: FileEntry, root: Path, packed: Callable[[str], Path]
) -> bool:
    try:
        source = packed(entry.sha256)
        if _digest(source) != entry.sha256:
            return False
        rules = [rule for rule in manifest.rewrites if rule.path == entry.path]
        expected = installed_file(source.read_bytes(), rules, generations.model_root(root))
        return (root / entry.path).read_bytes() == expected
    except (OSError, IntegrityError):
        return False


def _digest(path: Path, on_bytes: Callable[[int], None] = lambda _size: None) -> str:
    """Return the SHA-256 of a file, empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return sha256_stream(file, on_bytes)
    except OSError:
        return ""
