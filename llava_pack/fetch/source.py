"""Where a model comes from, as a recipe writes it, and its files laid out in a folder."""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.download import download_all
from llava_pack.fetch.hub import HubFile, Repo, remote_file, resolve_repo
from llava_pack.format.digests import sha256_stream
from llava_pack.format.errors import FetchError, RecipeError
from llava_pack.format.paths import bundle_path, check_unique
from llava_pack.format.progress import Progress, Silent

_HUB = re.compile(r"hf:(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^\s@]+))?")


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A repository of the Hub at a branch, tag or commit."""

    repo_id: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf:{self.repo_id}@{self.revision}"


@dataclass(frozen=True, kw_only=True)
class DirectorySource:
    """A folder on this machine."""

    folder: Path

    def __str__(self) -> str:
        return f"dir:{self.folder}"


Source = HubSource | DirectorySource


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a source holds before anything is fetched.

    Attributes:
        pinned: the same source at the commit that a branch or tag means now.
        sizes: bytes of each file, by path.
        gated: the Hub asks for an accepted licence.
    """

    pinned: Source
    sizes: Mapping[str, int]
    gated: bool = False


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A source's files, laid out.

    Attributes:
        folder: where they are; to be read only, because they may share their bytes with the
            cache or with the source folder.
        commit: the Hub's commit; None for a folder.
        origins: for each path, where it came from, as the manifest records it.
    """

    folder: Path
    commit: str | None
    origins: Mapping[str, Mapping[str, Any]]


def parse_source(text: str, *, base: Path | None = None) -> Source:
    """Read `hf:repo`, `hf:repo@revision` or `dir:path`.

    Args:
        text: as a recipe writes it.
        base: what a relative folder is relative to; the working directory by default.

    Raises:
        RecipeError: neither of them.

    >>> str(parse_source("hf:liuhaotian/llava-v1.5-7b"))
    'hf:liuhaotian/llava-v1.5-7b@main'
    """
    if match := _HUB.fullmatch(text):
        return HubSource(repo_id=match["repo"], revision=match["revision"] or "main")
    if text.startswith("dir:") and text != "dir:":
        return DirectorySource(
            folder=(base or Path()) / Path(text.removeprefix("dir:")).expanduser()
        )
    raise RecipeError(
        "not a source, expected hf:OWNER/NAME@REVISION or dir:PATH",
        subject=text,
        hint="correct the recipe's source",
    )


def list_source(source: Source) -> Listing:
    """Return what `source` holds now, pinned.

    Raises:
        RecipeError: no such folder, repository or revision.
        PackError: see `resolve_repo`.
    """
    match source:
        case HubSource():
            repo = resolve_repo(source.repo_id, source.revision)
            pinned = HubSource(repo_id=repo.repo_id, revision=repo.commit)
            sizes = {file.path: file.size_bytes for file in repo.files}
            return Listing(pinned=pinned, sizes=sizes, gated=repo.gated)
        case DirectorySource():
            paths = _walk(source.folder, str(source))
            return Listing(
                pinned=source, sizes={p: (source.folder / p).stat().st_size for p in paths}
            )


def materialise(
    source: Source,
    wanted: Sequence[str],
    cache: Cache,
    into: Path,
    progress: Progress | None = None,
) -> Snapshot:
    """Lay the wanted files of `source` out under `into`, verified, without a copy where it can be.

    Args:
        source: where from.
        wanted: patterns like `*.json`, matched against whole paths, case included.
        cache: what is fetched stays here for the next build.
        into: a folder, made if it is not there; files already in it are replaced.
        progress: told of the phase.

    Raises:
        RecipeError: no such folder, repository or revision; no file matches.
        IntegrityError: a name that is not safe in a bundle, or bytes that differ.
        PackError: see `resolve_repo` and `download_all`.
    """
    into.mkdir(parents=True, exist_ok=True)
    match source:
        case HubSource():
            return _from_hub(source, wanted, cache, into, progress or Silent())
        case DirectorySource():
            return _from_directory(source, wanted, into, progress or Silent())


def select(paths: Sequence[str], wanted: Sequence[str], subject: str) -> list[str]:
    """Return the paths that a pattern matches, checked to be safe on every system, sorted.

    Raises:
        RecipeError: none matches.
        IntegrityError: one is unsafe, or two differ in case only.
    """
    chosen = sorted(path for path in paths if any(fnmatchcase(path, one) for one in wanted))
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


def _from_hub(
    source: HubSource, wanted: Sequence[str], cache: Cache, into: Path, progress: Progress
) -> Snapshot:
    repo = resolve_repo(source.repo_id, source.revision)
    by_path = {file.path: file for file in repo.files}
    chosen = [by_path[path] for path in select(list(by_path), wanted, str(source))]
    remotes = {file.path: remote_file(repo, file) for file in chosen}
    what = f"fetch {source.repo_id}"
    fetched = download_all(remotes.values(), cache, progress=progress, what=what)
    for file in chosen:
        _place(fetched[remotes[file.path]].path, into / file.path)
    origins = {file.path: _hub_origin(repo, file) for file in chosen}
    return Snapshot(folder=into, commit=repo.commit, origins=origins)


def _hub_origin(repo: Repo, file: HubFile) -> dict[str, Any]:
    digest = f"sha256:{file.sha256}" if file.sha256 else f"git-blob:{file.git_oid}"
    return {
        "kind": "hub",
        "repo": repo.repo_id,
        "commit": repo.commit,
        "path": file.path,
        "digest": digest,
    }


def _from_directory(
    source: DirectorySource, wanted: Sequence[str], into: Path, progress: Progress
) -> Snapshot:
    folder = source.folder
    chosen = select(_walk(folder, str(source)), wanted, str(source))
    progress.start("read", sum((folder / path).stat().st_size for path in chosen))
    origins = {}
    for path in chosen:
        _place((folder / path).resolve(), into / path)
        origins[path] = {
            "kind": "directory",
            "folder": folder.resolve().name,
            "path": path,
            "digest": f"sha256:{_digest(into / path, progress)}",
        }
    progress.done()
    return Snapshot(folder=into, commit=None, origins=origins)


def _walk(folder: Path, subject: str) -> list[str]:
    if not folder.is_dir():
        raise RecipeError("no such folder", subject=subject, hint="correct the recipe's source")
    return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]


def _digest(path: Path, progress: Progress) -> str:
    with path.open("rb") as stream:
        return sha256_stream(stream, progress.advance)


def _place(held: Path, target: Path) -> None:
    """Link `held` to `target`, or copy it where a link cannot be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(held, target)
    except OSError:
        try:
            shutil.copyfile(held, target)
        except OSError as error:
            raise FetchError(
                f"cannot be laid out: {error.strerror}", subject=target.name
            ) from error
