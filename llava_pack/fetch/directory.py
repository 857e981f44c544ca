"""A folder of this machine as a source: `dir:PATH`.

What programs keep in it for themselves (`.git`, `.cache` and so on) is not part of it. A file that
Git left a pointer for is known by the size that it should have, and named once it is needed.

Source: git-lfs, docs/spec.md (the lines of a pointer, and that it is smaller than 1024 bytes).
"""

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from llava_pack.checkpoint.folder import checkpoint_folder, checkpoint_name
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.pieces import Span, read_span
from llava_pack.fetch.remote import Sha256
from llava_pack.fetch.source import ListedFile, Listing, Origins, lay_out
from llava_pack.format.digests import sha256_stream
from llava_pack.format.errors import CheckpointError, RecipeError
from llava_pack.format.progress import Progress

_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:[\w.-]+ .*\n)*?size (\d+)\n"
)
_POINTER_AT_MOST_BYTES = 1023


@dataclass(frozen=True, kw_only=True)
class DirectorySource:
    """A folder of this machine.

    Attributes:
        name: the last part of its path as the recipe has it; where it lies is nobody's business.
    """

    FORM: ClassVar[str] = "dir:PATH"
    folder: Path
    name: str
    revision: ClassVar[str] = ""
    purl: ClassVar[str] = ""

    @classmethod
    def parse(cls, place: str, base: Path) -> Self | None:
        """Return the folder, of a Hub's cache its snapshot; a relative one starts at `base`.

        Raises:
            CheckpointError: it is a Hub's cache without one.
        """
        if not place:
            return None
        folder = base / Path(place).expanduser()
        whole = checkpoint_folder(folder)
        name = Path(place).name if whole == folder else checkpoint_name(whole)
        return cls(folder=whole, name=name or place)

    def __str__(self) -> str:
        return f"dir:{self.folder}"

    @property
    def public(self) -> str:
        """Return it without its path."""
        return f"dir:{self.name}"

    def at(self, pinned: str) -> Self:  # noqa: ARG002 - a lock names a folder and does not pin it
        """Return the folder as it is."""
        return self

    def list(self) -> Listing:
        """Return its files.

        Raises:
            RecipeError: there is no such folder.
        """
        if not self.folder.is_dir():
            raise RecipeError(
                "no such folder", subject=str(self), hint="correct the recipe's source"
            )
        paths = [path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file()]
        own = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
        files = {path.as_posix(): ListedFile(_size(self.folder / path)) for path in own}
        return Listing(pinned=self, files=files)

    def fetch(
        self,
        files: Mapping[str, ListedFile],
        cache: Cache,  # noqa: ARG002 - what is on this machine is not kept twice
        into: Path,
        progress: Progress,
    ) -> Origins:
        """Link or copy files under `into`.

        Raises:
            CheckpointError: Git has a pointer in place of some.
        """
        self._refuse_pointers(files)
        progress.start(f"read {self.folder.name}", sum(file.size_bytes for file in files.values()))
        origins = {path: self._laid_out(path, into / path, progress) for path in files}
        progress.done()
        return origins

    def pieces(
        self,
        files: Mapping[str, ListedFile],  # noqa: ARG002 - the spans name them
        spans: Collection[Span],
        cache: Cache,  # noqa: ARG002 - what is on this machine is not kept twice
    ) -> Mapping[Span, bytes]:
        """Read pieces of files; fetching one that has gone since it was listed will say so.

        Raises:
            CheckpointError: Git has a pointer in place of some.
        """
        self._refuse_pointers({span.path for span in spans})
        pieces = {}
        for span in spans:
            with suppress(OSError):
                pieces[span] = read_span(self.folder / span.path, span)
        return pieces

    def _refuse_pointers(self, paths: Iterable[str]) -> None:
        pointers = sorted(path for path in paths if _promised(self.folder / path) is not None)
        if pointers:
            raise CheckpointError(
                f"Git LFS pointers in place of the files: {', '.join(pointers)}",
                subject=self.name,
                hint="run `git lfs install` and `git lfs pull` in that folder; with a download "
                "from a browser, fetch these files again",
            )

    def _laid_out(self, path: str, target: Path, progress: Progress) -> dict[str, Any]:
        lay_out((self.folder / path).resolve(), target)
        with target.open("rb") as stream:
            digest = sha256_stream(stream, progress.advance)
        return {
            "kind": "directory",
            "folder": self.name,
            "path": path,
            "digest": str(Sha256(digest)),
        }


def _size(path: Path) -> int:
    """Return a file's size; where Git left a pointer, the size of what it points to."""
    promised = _promised(path)
    return path.stat().st_size if promised is None else promised


def _promised(path: Path) -> int | None:
    """Return the size that a Git LFS pointer promises, None for any other file."""
    try:
        if path.stat().st_size > _POINTER_AT_MOST_BYTES:
            return None
        match = _POINTER.match(path.read_bytes())
    except OSError:  # reading it will say so
        return None
    return int(match[1]) if match else None
