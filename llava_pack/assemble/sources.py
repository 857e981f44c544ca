"""A source on its way into a bundle: listed, identified by its small files, fetched."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from llava_pack.assemble.headers import remote_headers
from llava_pack.checkpoint.config import parse_config
from llava_pack.checkpoint.defects import Defect, refuse
from llava_pack.checkpoint.findings import kind_defects
from llava_pack.checkpoint.folder import foreign_defects, leftover_defects, no_weights_hint
from llava_pack.checkpoint.kind import ADAPTERS, PROJECTORS, TRAINABLES, Kind, classify
from llava_pack.checkpoint.layout import Layout, survey_files
from llava_pack.checkpoint.weight_file import Held
from llava_pack.checkpoint.weight_set import find_weights
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.directory import DirectorySource
from llava_pack.fetch.source import Listing, Origins, Source, select
from llava_pack.format.digests import sha256_stream
from llava_pack.format.errors import CheckpointError, IntegrityError
from llava_pack.format.progress import Progress
from llava_pack.recipe import ExpectedFile

_SMALL = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "adapter_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.index.json",
)
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "README.md")
_TEXTS = (*_SMALL, *LICENCES)
_LONE = frozenset(PROJECTORS)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A source whose files are known by name and size; none of them is here.

    Attributes:
        listing: what the source holds.
        expected: what the recipe knows of its files.
        cache: what is fetched stays here.
        folder: where the files are laid out.
    """

    listing: Listing
    expected: Sequence[ExpectedFile]
    cache: Cache
    folder: Path

    def identify(self, kinds: Sequence[Kind], progress: Progress) -> "Identified":
        """Fetch the small files, and find out what kind of checkpoint they are of.

        Args:
            kinds: those that will do; the first is named where it is none of them.
            progress: told what is fetched.

        Raises:
            CheckpointError: it is another kind, and the hint says which to take; or files are
                missing, weights among them.
            IntegrityError: a file has another size than the recipe knows.
            PackError: what fetching raises.
        """
        self._forget()
        listing, config = self.listing, self._config(progress)
        refuse(foreign_defects(listing.files, config), subject=str(listing.pinned))
        kind = classify(listing.files, config)
        if not config and _LONE & listing.files.keys():
            kind = Kind.PROJECTOR
        meant = kind if kind in kinds else kinds[0]
        refuse(kind_defects(listing.pinned.name, kind, meant), subject=str(listing.pinned))
        _check_expected(listing, self.expected)
        weights = _weight_files(listing, kind, self.folder)
        return Identified(listed=self, kind=kind, config=config, weights=weights)

    def fetch(self, wanted: Collection[str], progress: Progress) -> Origins:
        """Fetch those of the wanted files that are there."""
        present = [one for one in wanted if self.listing.has(one)]
        return self.listing.fetch(present or list(wanted), self.cache, self.folder, progress)

    def _forget(self) -> None:
        """Remove what an earlier run laid out that the source no longer holds."""
        for path in [path for path in self.folder.rglob("*") if not path.is_dir()]:
            if path.relative_to(self.folder).as_posix() not in self.listing.files:
                path.unlink()

    def _config(self, progress: Progress) -> dict[str, Any]:
        """Fetch the small files and return config.json; a lone projector may have none."""
        lone = _LONE & self.listing.files.keys()
        if not lone or any(map(self.listing.has, _TEXTS)):
            self.fetch(_TEXTS, progress)
        path = self.folder / "config.json"
        return parse_config(path.read_bytes()) if path.is_file() else {}


@dataclass(frozen=True, kw_only=True)
class Identified:
    """A source of which all is known but its weights.

    Attributes:
        config: its config.json; empty where it has none.
        weights: names of the weight files.
    """

    listed: Listed
    kind: Kind
    config: Mapping[str, Any]
    weights: tuple[str, ...]

    @property
    def pinned(self) -> Source:
        """Return the source at the commit that was listed."""
        return self.listed.listing.pinned

    def survey(self) -> tuple[Layout, list[Defect]]:
        """Return what it will hold once it is fetched, and every defect that shows by now.

        Of weights only the headers are asked for.
        """
        listing, folder = self.listed.listing, self.listed.folder
        names = [name for name in listing.files if "/" not in name]
        packed = select(names, (*_SMALL, *self.weights), str(self.pinned))
        layout, defects = survey_files(folder, packed, self._headers, expect=self.kind)
        return layout, [*defects, *leftover_defects(listing.files)]

    def _headers(self, files: tuple[str, ...]) -> tuple[Held, list[Defect]]:
        listed = {name: self.listed.listing.files[name] for name in files}
        return remote_headers(self.pinned, listed, self.listed.cache)

    @property
    def weight_sizes(self) -> dict[str, int]:
        """Return the bytes of each weight file, as it is published."""
        files = self.listed.listing.files
        return {name: files[name].size_bytes for name in self.weights}

    def fetch(self, progress: Progress) -> "Fetched":
        """Fetch the weights too.

        Raises:
            PackError: what fetching raises.
            IntegrityError: a file has another digest than the recipe knows.
        """
        digests = {one.path: one.sha256 for one in self.listed.expected if one.sha256 is not None}
        origins = self.listed.fetch((*_TEXTS, *self.weights, *digests), progress)
        folder = self.listed.folder
        for path, digest in digests.items():
            _check_digest(folder / path, digest, f"{self.pinned.public}: {path}")
        return Fetched(folder=folder, pinned=self.pinned, origins=origins, weights=self.weights)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A source, whole: its small files, its weights, its licence texts.

    Attributes:
        pinned: the source at the commit that was fetched.
        weights: names of the weight files in `folder`.
        left_out: how names of tensors begin that are not packed.
    """

    folder: Path
    pinned: Source
    origins: Origins
    weights: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def digests(self) -> list[str]:
        """Return what identifies the content: path and digest of every file."""
        return [f"{path}={self.origins[path]['digest']}" for path in sorted(self.origins)]

    def present(self, patterns: Collection[str]) -> list[str]:
        """Return the fetched files that a pattern matches."""
        return sorted(
            path for path in self.origins if any(fnmatchcase(path, one) for one in patterns)
        )


def _weight_files(listing: Listing, kind: Kind, folder: Path) -> tuple[str, ...]:
    """Return the names of the weight files; the indexes are in `folder`."""
    if kind is Kind.LORA:
        beside = tuple(name for name in TRAINABLES if name in listing.files)
        return _one_of(ADAPTERS, listing) + beside[:1]
    if kind is Kind.PROJECTOR:
        return _one_of(PROJECTORS, listing)
    found = find_weights(listing.files, lambda name: (folder / name).read_bytes())
    broken = [str(defect) for defect in found.defects if defect.level == "fail"]
    if broken or not found.files:
        roots = {PurePosixPath(name).parts[0] for name in listing.files}
        defects = "; ".join(broken) or "it contains no weights, expected *.safetensors or *.bin"
        raise _incomplete(defects, listing, "" if broken else no_weights_hint(roots))
    return found.files


def _one_of(group: tuple[str, ...], listing: Listing) -> tuple[str, ...]:
    present = tuple(name for name in group if name in listing.files)
    if not present:
        raise _incomplete(f"there is no {group[0]}, and no {group[1]}", listing)
    return present[:1]


def _incomplete(defects: str, listing: Listing, hint: str = "") -> CheckpointError:
    return CheckpointError(
        defects,
        subject=str(listing.pinned),
        hint=hint or "check that the recipe's source is the whole repository",
    )


def _check_expected(listing: Listing, expected: Sequence[ExpectedFile]) -> None:
    """Hold a listing against the names and sizes that the recipe knows."""
    missing = [file.path for file in expected if file.path not in listing.files]
    if missing:
        raise CheckpointError(
            f"files are missing: {', '.join(missing)}",
            subject=str(listing.pinned),
            hint="the download is not complete: fetch these too, or name the repository"
            if isinstance(listing.pinned, DirectorySource)
            else "the repository has changed, or HF_ENDPOINT points at an incomplete mirror",
        )
    for file in expected:
        size_bytes = listing.files[file.path].size_bytes
        if file.size_bytes is not None and file.size_bytes != size_bytes:
            wanted, got = f"{file.size_bytes} bytes", f"{size_bytes} bytes"
            raise IntegrityError(
                f"expected {wanted}, as in the recipe, got {got}",
                subject=f"{listing.pinned.public}: {file.path}",
                hint="it is of another model, or was cut off: fetch it again",
            )


def _check_digest(path: Path, expected: str, subject: str) -> None:
    with path.open("rb") as stream:
        digest = sha256_stream(stream)
    if digest != expected:
        raise IntegrityError(
            f"expected SHA-256 {expected}, as in the recipe, got {digest}",
            subject=subject,
            hint="the source holds a different model from the recipe's",
        )
