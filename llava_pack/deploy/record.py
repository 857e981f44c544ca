"""What earlier deployments left: which bundle was built of what, and where it runs.

<cache>/deployments/<digest of destination and recipe>.json, one for each; <cache>/bundles/<name>,
the bundles. Both can be removed: what is missing is made again.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from llava_pack.fetch.cache import Cache
from llava_pack.format import canonical, files, records
from llava_pack.format.errors import IntegrityError
from llava_pack.format.sums import SUMS_NAME

_MAX_BYTES = 4 << 20
_KEY_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class BuiltBundle:
    """A bundle that was built on this machine.

    Attributes:
        inputs: digest of what was asked for: recipe, options and the facts of the target.
        contents: digest of its lock without the date; another one is another bundle.
        folder: where it lies here.
    """

    inputs: str
    contents: str
    bundle_id: str
    folder: str
    size_bytes: int

    @property
    def lies_here(self) -> bool:
        """Whether the folder still holds it, by its list of digests; its files are sent by that."""
        try:
            text = (Path(self.folder) / SUMS_NAME).read_bytes()
        except OSError:
            return False
        return sha256(text).hexdigest() == self.bundle_id


@dataclass(frozen=True, kw_only=True)
class Record:
    """One recipe on one server."""

    destination: str
    recipe: str
    bundle: BuiltBundle
    prefix: str = ""
    """On the server; empty until it is installed there."""


class Records:
    """The deployments of this account.

    Args:
        cache: beside whose files they lie.
    """

    def __init__(self, cache: Cache) -> None:
        self._folder = cache.root / "deployments"
        self._bundles = cache.root / "bundles"

    def read(self, destination: str, recipe: str) -> Record | None:
        """Return what is known of a recipe on a server."""
        return self._load(self._place(destination, recipe))

    def write(self, record: Record) -> None:
        """Keep a record; bundles of ours that no record names any more are removed."""
        for folder in (self._folder, self._bundles):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps(records.encode(record), indent=1) + "\n"
        place = self._place(record.destination, record.recipe)
        before = self._load(place)
        files.write(place, text.encode(), 0o600)
        named = {one.bundle.folder for one in self._all()}
        if before is not None and before.bundle.folder not in named:
            self._remove(Path(before.bundle.folder))

    def built(self, inputs: str) -> BuiltBundle | None:
        """Return the bundle that was built of the same inputs, if it lies here."""
        found = (one.bundle for one in self._all() if one.bundle.inputs == inputs)
        return next((one for one in found if one.lies_here), None)

    def folder(self, recipe: str, inputs: str) -> Path:
        """Return where a bundle is built: always the same place, so that a build resumes."""
        self._bundles.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._bundles / f"{recipe}-{inputs[:_KEY_DIGITS]}"

    def _place(self, destination: str, recipe: str) -> Path:
        key = sha256(f"{destination}\0{recipe}".encode()).hexdigest()
        return self._folder / f"{key[:_KEY_DIGITS]}.json"

    def _all(self) -> Iterator[Record]:
        for place in sorted(self._folder.glob("*.json")):
            if record := self._load(place):
                yield record

    def _remove(self, folder: Path) -> None:
        """Remove a bundle that `deploy` built; one in a folder of the person's choice stays."""
        if folder.parent == self._bundles:
            shutil.rmtree(folder, ignore_errors=True)

    def _load(self, place: Path) -> Record | None:
        try:
            value = canonical.loads(place.read_bytes(), max_bytes=_MAX_BYTES)
        except (OSError, IntegrityError):
            return None
        return records.decode(Record, value, records.Defects())
