"""What the repositories of a model hub have in common as sources: `SCHEME:OWNER/NAME@REVISION`.

A kind of hub says how it lists a repository and under which address it has a file; the bytes come
through `download_all`, which resumes, and are named by the commit that was listed.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.download import download_all
from llava_pack.fetch.pieces import Span, remote_pieces
from llava_pack.fetch.remote import Digest, RemoteFile
from llava_pack.fetch.source import ListedFile, Listing, Origins, lay_out
from llava_pack.format.errors import RecipeError
from llava_pack.format.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Repository(ABC):
    """A repository at a branch, tag or commit.

    Attributes:
        SCHEME: the word that a recipe begins it with.
        KIND: what a manifest calls files of it.
        PLACE: a regular expression for what follows the scheme, with the groups `repo` and
            `revision`.
        HEAD: the revision where none is said.
    """

    FORM: ClassVar[str]
    SCHEME: ClassVar[str]
    KIND: ClassVar[str]
    PLACE: ClassVar[re.Pattern[str]]
    HEAD: ClassVar[str]
    repo_id: str
    revision: str

    @classmethod
    def parse(cls, place: str, base: Path) -> Self | None:  # noqa: ARG003 - a name is absolute
        """Return the repository, at its main branch where no revision is said."""
        match = cls.PLACE.fullmatch(place)
        return match and cls(repo_id=match["repo"], revision=match["revision"] or cls.HEAD)

    def __str__(self) -> str:
        return f"{self.SCHEME}:{self.repo_id}@{self.revision}"

    @property
    def name(self) -> str:
        """Return the repository's name without its owner."""
        return self.repo_id.rpartition("/")[2]

    @property
    def public(self) -> str:
        """Return it as a recipe has it."""
        return str(self)

    @property
    @abstractmethod
    def purl(self) -> str:
        """Return its package URL."""

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """Return the address that is asked."""

    def at(self, pinned: str) -> Self:
        """Return the repository at a lock's commit.

        Raises:
            RecipeError: the lock has another repository.
        """
        repo, _, commit = pinned.removeprefix(f"{self.SCHEME}:").partition("@")
        if repo != self.repo_id or not commit:
            raise RecipeError(
                f"expected a commit of {self.repo_id}, got {pinned}",
                subject="lock",
                hint="write a new lock: llava-pack lock RECIPE --out FILE",
            )
        return replace(self, revision=commit)

    @abstractmethod
    def list(self) -> Listing:
        """Ask what the repository holds, at which commit."""

    @abstractmethod
    def remote_file(self, path: str, file: ListedFile) -> RemoteFile:
        """Return where and with which promises a file is fetched, with the environment's token."""

    def fetch(
        self, files: Mapping[str, ListedFile], cache: Cache, into: Path, progress: Progress
    ) -> Origins:
        """Fetch files, verified, and lay them out under `into`."""
        remotes = {path: self.remote_file(path, file) for path, file in files.items()}
        what = f"fetch {self.repo_id}"
        fetched = download_all(remotes.values(), cache, progress=progress, what=what)
        for path, remote in remotes.items():
            lay_out(fetched[remote].path, into / path)
        return {path: self._origin(path, remote.digest) for path, remote in remotes.items()}

    def pieces(
        self, files: Mapping[str, ListedFile], spans: Collection[Span], cache: Cache
    ) -> Mapping[Span, bytes]:
        """Ask for pieces of files."""
        remotes = {
            path: self.remote_file(path, files[path]) for path in {one.path for one in spans}
        }
        return remote_pieces(remotes, spans, cache)

    def _origin(self, path: str, digest: Digest | None) -> dict[str, Any]:
        return {
            "kind": self.KIND,
            "repo": self.repo_id,
            "commit": self.revision,
            "path": path,
            "digest": str(digest),
        }
