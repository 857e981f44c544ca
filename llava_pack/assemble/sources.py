"""The model and its tower, from where the recipe says, looked at before gigabytes move."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.config import parse_config
from llava_pack.checkpoint.defects import refuse
from llava_pack.checkpoint.findings import kind_defects
from llava_pack.checkpoint.kind import ADAPTERS, PROJECTORS, TRAINABLES, Kind, classify
from llava_pack.checkpoint.weight_set import find_weights
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.source import (
    HubSource,
    Listing,
    Snapshot,
    Source,
    list_source,
    materialise,
    parse_source,
)
from llava_pack.format.digests import sha256_stream
from llava_pack.format.errors import CheckpointError, IntegrityError
from llava_pack.format.progress import Progress
from llava_pack.recipe import ExpectedFile

SMALL = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "adapter_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.index.json",
)
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "README.md")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A source, whole: its small files, its weights, its licence texts.

    Attributes:
        pinned: the source at the commit that was fetched, as a recipe would write it; of a folder
            its last name alone: where it lay on this machine is nobody's business.
        weights: names of the weight files in `folder`.
    """

    folder: Path
    pinned: str
    origins: Mapping[str, Mapping[str, Any]]
    weights: tuple[str, ...]

    def digests(self) -> list[str]:
        """Return what identifies the content: path and digest of every file."""
        return [f"{path}={self.origins[path]['digest']}" for path in sorted(self.origins)]

    def present(self, patterns: Collection[str]) -> list[str]:
        """Return the fetched files that a pattern matches."""
        return sorted(
            path for path in self.origins if any(fnmatchcase(path, one) for one in patterns)
        )


class RemoteSource:
    """One source of a build: listed, then its small files, then its weights.

    Args:
        text: `hf:repo@revision` or `dir:path`, as the recipe has it.
        base: what a relative folder starts from.
        cache: what is fetched stays here.
        into: where the files are laid out.
    """

    def __init__(self, text: str, base: Path, cache: Cache, into: Path) -> None:
        self._cache = cache
        self._into = into
        self.listing: Listing = list_source(parse_source(text, base=base))
        self.kind = Kind.UNKNOWN
        self._expected: dict[str, str] = {}

    def small(self, progress: Progress) -> None:
        """Fetch configuration, tokenizer, indexes and licence texts; a projector may have none."""
        lone = set(PROJECTORS) & set(self.listing.sizes)
        if not lone or any(self._has(pattern) for pattern in (*SMALL, *LICENCES)):
            self._fetch((*SMALL, *LICENCES), progress)

    @property
    def config(self) -> dict[str, Any]:
        """Return its config.json, after `small`; empty where it has none."""
        path = self._into / "config.json"
        return parse_config(path.read_bytes()) if path.is_file() else {}

    def check_kind(self, *expected: Kind) -> None:
        """Refuse another kind of checkpoint, by configuration and names, after `small`.

        Args:
            expected: kinds that will do; the first is named where it is none of them.

        Raises:
            CheckpointError: it is another one; the hint says which to take.
        """
        config = self.config
        self.kind = classify(self.listing.sizes, config)
        if not config and set(PROJECTORS) & set(self.listing.sizes):
            self.kind = Kind.PROJECTOR
        pinned = self.listing.pinned
        name = pinned.repo_id if isinstance(pinned, HubSource) else str(pinned.folder)
        meant = self.kind if self.kind in expected else expected[0]
        refuse(kind_defects(name.rpartition("/")[2], self.kind, meant), subject=str(pinned))

    def weight_files(self) -> tuple[str, ...]:
        """Return the names of the weight files, after `small` and `check_kind`.

        Raises:
            CheckpointError: there are none, or an index names a file that is not there.
        """
        if self.kind is Kind.LORA:
            return self._one_of(ADAPTERS) + self._one_of(TRAINABLES)
        if self.kind is Kind.PROJECTOR:
            return self._one_of(PROJECTORS)
        found = find_weights(self.listing.sizes, lambda name: (self._into / name).read_bytes())
        broken = [str(defect) for defect in found.defects if defect.level == "fail"]
        if broken or not found.files:
            raise CheckpointError(
                "; ".join(broken) or "it contains no weights, expected *.safetensors or *.bin",
                subject=str(self.listing.pinned),
                hint="check that the recipe's source is the whole repository",
            )
        return found.files

    def _one_of(self, group: tuple[str, ...]) -> tuple[str]:
        for name in group:
            if name in self.listing.sizes:
                return (name,)
        raise CheckpointError(
            f"there is no {group[0]}, and no {group[1]}",
            subject=str(self.listing.pinned),
            hint="check that the recipe's source is the whole repository",
        )

    def whole(self, progress: Progress) -> Fetched:
        """Fetch the weights too, and return everything.

        Raises:
            PackError: what fetching raises.
            IntegrityError: a file has another digest than the recipe knows.
        """
        weights = self.weight_files()
        snapshot = self._fetch((*SMALL, *LICENCES, *weights), progress)
        self._check_digests(snapshot)
        return Fetched(
            folder=snapshot.folder,
            pinned=_public(self.listing.pinned),
            origins=snapshot.origins,
            weights=weights,
        )

    def check_expected(self, expected: Collection[ExpectedFile]) -> None:
        """Hold the listing against what the recipe knows of the repository.

        Raises:
            CheckpointError: files are missing.
            IntegrityError: a file has another size.
        """
        missing = [file.path for file in expected if file.path not in self.listing.sizes]
        if missing:
            raise CheckpointError(
                f"files are missing: {', '.join(missing)}",
                subject=str(self.listing.pinned),
                hint="the repository has changed, or HF_ENDPOINT points at an incomplete mirror",
            )
        for file in expected:
            found = self.listing.sizes[file.path]
            if file.size_bytes is not None and file.size_bytes != found:
                raise IntegrityError(
                    f"expected {file.size_bytes} bytes, got {found}", subject=file.path
                )
        self._expected = {file.path: file.sha256 for file in expected if file.sha256 is not None}

    def _check_digests(self, snapshot: Snapshot) -> None:
        """Hold what was fetched against the digests that the recipe knows."""
        for path, wanted in self._expected.items():
            if path not in snapshot.origins:
                continue
            with (snapshot.folder / path).open("rb") as stream:
                found = sha256_stream(stream, lambda _size: None)
            if found != wanted:
                raise IntegrityError(
                    f"expected SHA-256 {wanted}, as in the recipe, got {found}",
                    subject=f"{_public(self.listing.pinned)}: {path}",
                    hint="the source holds a different model from the recipe's",
                )

    def _fetch(self, wanted: Collection[str], progress: Progress) -> Snapshot:
        present = [one for one in wanted if self._has(one)]
        return materialise(
            self.listing.pinned, present or list(wanted), self._cache, self._into, progress
        )

    def _has(self, pattern: str) -> bool:
        return any(fnmatchcase(path, pattern) for path in self.listing.sizes)


def _public(source: Source) -> str:
    return str(source) if isinstance(source, HubSource) else f"dir:{source.folder.name}"
