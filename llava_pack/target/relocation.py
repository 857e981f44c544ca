"""A prefix that was moved or copied: what names its own place is written anew, once.

That is, of each generation: where its venv finds its Python, the files of the model that hold
absolute paths, and the seal. Everything else under a prefix is relative, or made at each start.
`bin/llava-pack` runs this before anything else, where the place that is written down is another.
"""

import os
from contextlib import suppress
from pathlib import Path

from llava_pack.format import files
from llava_pack.format.digests import sha256_stream
from llava_pack.format.errors import IntegrityError, SpaceError
from llava_pack.format.manifest import Manifest, parse_manifest
from llava_pack.format.progress import Progress
from llava_pack.format.sums import MANIFEST_NAME, SUMS_NAME, bundle_id, parse_sums
from llava_pack.target import disk, generations, receipt, serving, staging, venv
from llava_pack.target.generations import Generation
from llava_pack.target.launcher import PLACE
from llava_pack.target.store import Store


def settle(prefix: Path, progress: Progress) -> None:
    """Have every complete generation be right where it is now, under the lock.

    Files that are no more the same ones are read again. Killed, it begins anew: nothing depends on
    how far it came.

    Raises:
        OSError: something cannot be written.
    """
    here = os.path.realpath(prefix)
    was = ""
    with suppress(OSError):
        was = os.fsdecode((prefix / PLACE).read_bytes()).removesuffix("\n")
    if was == here:
        return
    held = generations.listing(Path(here))
    if was and held:
        progress.note(f"this installation was moved here from {was}: it is put in order, once")
    for pid, _ in serving.claims(Path(was), None) if was else ():
        progress.note(f"! process {pid} still serves from {was}: stop it, and start it from here")
    for item in held:
        _settle(item, Store(Path(here)), progress)
    with suppress(SpaceError), disk.room_on(prefix):  # gc runs on a full disk too
        files.write(prefix / PLACE, os.fsencode(here) + b"\n", 0o644)


def _settle(item: Generation, store: Store, progress: Progress) -> None:
    try:
        venv.settle(item.root)
        manifest = parse_manifest((item.root / MANIFEST_NAME).read_bytes())
        right = not receipt.broken(item.root) or _same(item, manifest, progress)
        staging.finalise(manifest, store, item.root)
    except (IntegrityError, FileNotFoundError):
        right = False
    if right and receipt.broken(item.root):
        receipt.seal(item.root)
    elif not right:
        name = f"{item.recipe} generation {item.number}"
        progress.note(f"! {name} is not as it was verified: install its bundle again")


def _same(item: Generation, manifest: Manifest, progress: Progress) -> bool:
    """Read every file of the model, and say whether all are what the id promises, and no others."""
    sums = (item.root / SUMS_NAME).read_bytes()
    promised = {MANIFEST_NAME: parse_sums(sums).get(MANIFEST_NAME)}
    entries = manifest.under("model")
    promised |= {entry.path: entry.sha256 for entry in entries}
    finalised = {rule.path for rule in manifest.rewrites if rule.installed is not None}
    progress.start("reading the moved model", sum(entry.size_bytes for entry in entries))
    try:
        return bundle_id(sums) == item.receipt.bundle_id and all(
            name in finalised or _digest(item.root / name, progress) == promised.get(name)
            for name in promised.keys() | receipt.sealed(item.root)
        )
    finally:
        progress.done()


def _digest(path: Path, progress: Progress) -> str:
    with path.open("rb") as file:
        return sha256_stream(file, progress.advance)
