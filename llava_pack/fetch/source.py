"""A source of a model: what every kind of them does, and what comes of it.

A kind is a class with these methods and an entry in `llava_pack.fetch.schemes`. It is written in
two ways, both by its class: as a recipe has it (`str`), and as locks, manifests and bills of
materials have it (`public`), which tells nothing of the machine that packs.
"""

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.pieces import Span
from llava_pack.fetch.remote import Digest
from llava_pack.format import files
from llava_pack.format.errors import FetchError, RecipeError
from llava_pack.format.paths import bundle_path, check_unique
from llava_pack.format.progress import Progress, Silent

Origins = Mapping[str, Mapping[str, Any]]
"""For each path, where it came from, as the manifest records it."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file that a source has; `digest` is None where nobody promised one."""

    size_bytes: int
    digest: Digest | None = None


class Source(Protocol):
    """One place that a model comes from."""

    FORM: ClassVar[str]
    """How it is written, for a person."""

    @classmethod
    def parse(cls, place: str, base: Path) -> Self | None:
        """Return the source that a recipe in the folder `base` writes as `SCHEME:place`, or None.

        Neither the network nor the disk is asked.
        """

    @property
    def name(self) -> str:
        """Return the last part of where it is."""

    @property
    def revision(self) -> str:
        """Return which state of it; empty where it has but one."""

    @property
    def public(self) -> str:
        """Return it as locks, manifests and bills of materials write it."""

    @property
    def purl(self) -> str:
        """Return its package URL, empty where it has none."""

    def at(self, pinned: str) -> Self:
        """Return this source in the state that a lock has of it.

        Args:
            pinned: the `public` of an earlier listing.

        Raises:
            RecipeError: it is of another source.
        """

    def list(self) -> "Listing":
        """Return what it holds now.

        Raises:
            PackError: it cannot be had.
        """

    def fetch(
        self, files: Mapping[str, ListedFile], cache: Cache, into: Path, progress: Progress
    ) -> Origins:
        """Lay files out under `into`, verified; see `Listing.fetch`."""

    def pieces(
        self, files: Mapping[str, ListedFile], spans: Collection[Span], cache: Cache
    ) -> Mapping[Span, bytes]:
        """Return pieces of files, those that can be had."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a source holds before anything is fetched.

    Attributes:
        pinned: the same source at the commit that a branch or tag means now.
        files: by path.
    """

    pinned: Source
    files: Mapping[str, ListedFile]

    def has(self, pattern: str) -> bool:
        """Whether a file matches."""
        return pattern in self.files or any(fnmatchcase(path, pattern) for path in self.files)

    def fetch(
        self, wanted: Sequence[str], cache: Cache, into: Path, progress: Progress | None = None
    ) -> Origins:
        """Lay the wanted files out under `into`, verified, without a copy where it can be.

        They are to be read only, because they may share their bytes with the cache or with a
        folder of somebody's.

        Args:
            wanted: paths, and patterns like `*.json` for whole paths, case included.
            cache: what is fetched stays here for the next build.
            into: a folder, made if it is not there; files already in it are replaced.
            progress: told of the phase.

        Raises:
            RecipeError: no file matches.
            IntegrityError: a name that is not safe in a bundle, or bytes that differ.
            PackError: see `download_all`.
        """
        chosen = select(list(self.files), wanted, str(self.pinned))
        into.mkdir(parents=True, exist_ok=True)
        files = {path: self.files[path] for path in chosen}
        return self.pinned.fetch(files, cache, into, progress or Silent())


def select(paths: Sequence[str], wanted: Sequence[str], subject: str) -> list[str]:
    """Return the paths that are wanted, checked to be safe on every system, sorted.

    Raises:
        RecipeError: there is none.
        IntegrityError: one is unsafe, or two differ in case only.
    """
    chosen = sorted(
        path for path in paths if any(path == one or fnmatchcase(path, one) for one in wanted)
    )
    if not chosen:
        raise RecipeError(
            f"expected files like {', '.join(wanted)}, got: {', '.join(sorted(paths)[:20])}",
            subject=subject,
            hint="check that the source is the model that the recipe means",
        )
    for path in chosen:
        bundle_path(path)
    check_unique(chosen)
    return chosen


def lay_out(held: Path, target: Path) -> None:
    """Link `held` to `target`, or copy it where a link cannot be.

    Raises:
        FetchError: neither can be.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        files.link(held, target)
    except OSError:
        try:
            shutil.copyfile(held, target)
        except OSError as error:
            raise FetchError(
                f"cannot be laid out: {error.strerror}", subject=target.name
            ) from error
