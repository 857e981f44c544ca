"""What is missing of a bundle whose good files are in the store, and what to bring for it."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_pack.format import canonical, files
from llava_pack.format.chunks import FileChunk, parse_piece, runs, within
from llava_pack.format.digest_list import short_form
from llava_pack.format.errors import IntegrityError
from llava_pack.format.manifest import FileEntry, Manifest, parse_manifest
from llava_pack.format.part import MediumPart
from llava_pack.format.progress import Progress
from llava_pack.format.sums import SUMS_NAME
from llava_pack.format.text import human_bytes
from llava_pack.target import inventory
from llava_pack.target.inventory import COPY_AGAIN, BundleListing, FileDefect

NAME = "need.json"
COLLECTING = "collecting"
"""Below it the manifest of each bundle that is not complete: what gc keeps the files of."""
SCHEMA = 1
_MAX_BYTES = 8 * 1024 * 1024
_FETCH_AGAIN = "the bad file is removed: add --index URL to the same command, and it is fetched"


@dataclass(frozen=True, kw_only=True)
class Lack:
    """A file that is not in the store, and not whole and good on any medium."""

    entry: FileEntry
    chunks: tuple[FileChunk, ...]
    """What is missing of it; none where that is all."""
    all_chunks: tuple[FileChunk, ...] = ()
    """Of the file; none where it has one alone."""
    defect: FileDefect | None
    """What is there instead; None where nothing is."""

    @property
    def shown(self) -> FileDefect:
        """The same as a defect of the bundle."""
        return self.defect or FileDefect(self.entry.path, "missing", "a file", "nothing")

    @property
    def size_bytes(self) -> int:
        """How much is to be brought."""
        return sum(chunk.size_bytes for chunk in self.chunks) or self.entry.size_bytes


class LackError(IntegrityError):
    """Files are missing or bad; all that is good is in the store."""

    def __init__(self, lacks: tuple[Lack, ...], *, of: int) -> None:
        absent = any(lack.defect is not None and not lack.entry.carried for lack in lacks)
        defects = [lack.shown for lack in lacks]
        hint = _FETCH_AGAIN if absent else COPY_AGAIN
        told = inventory.refusal(defects, of=of, hint=hint)
        super().__init__(told.message, hint=told.hint)
        self.lacks = lacks
        self.of = of


@dataclass(frozen=True, kw_only=True)
class Need:
    """What is to be brought for a bundle."""

    bundle_id: str
    lacks: tuple[Lack, ...]

    @property
    def digests(self) -> tuple[str, ...]:
        """The digest of each file that is missing whole, and of each missing chunk."""
        whole = [lack.entry.sha256 for lack in self.lacks if not lack.chunks]
        return (*whole, *(chunk.sha256 for lack in self.lacks for chunk in lack.chunks))

    @property
    def size_bytes(self) -> int:
        """How much that is."""
        return sum(lack.size_bytes for lack in self.lacks)

    def short(self) -> str:
        """Return it as text to paste."""
        return short_form("need", self.digests)

    def facts(self) -> dict[str, Any]:
        """Return what need.json holds."""
        entries = [lack.entry for lack in self.lacks if not lack.chunks]
        spans = [(lack.entry, span) for lack in self.lacks for span in runs(lack.chunks)]
        return {
            "schema": SCHEMA,
            "kind": "need",
            "bundle_id": self.bundle_id,
            "digests": sorted(self.digests),
            "files": [{"path": one.path, "size_bytes": one.size_bytes} for one in entries],
            "pieces": [
                {"path": one.path, "offset": start, "size_bytes": end - start}
                for one, (start, end) in spans
            ],
        }

    def media(self, part: MediumPart) -> Iterator[tuple[int, int, int]]:
        """Yield the number of each medium that has some of it, with how many files and bytes."""
        wanted = {lack.entry.path: lack for lack in self.lacks}
        for number, names in enumerate(part.media, start=1):
            sizes = [_on_medium(name, wanted, part) for name in names]
            if any(sizes):
                yield number, sum(bool(size) for size in sizes), sum(sizes)


def _on_medium(name: str, wanted: dict[str, Lack], part: MediumPart) -> int:
    """Return how many bytes of what is wanted a file of a medium holds."""
    if name in wanted:
        return wanted[name].size_bytes
    path, start = parse_piece(name) or ("", 0)
    if path not in wanted:
        return 0
    end = part.piece_end(path, start, wanted[path].entry.size_bytes)
    chunks = wanted[path].chunks
    inside = sum(chunk.size_bytes for chunk in within(chunks, start, end))
    return inside if chunks else end - start


@dataclass(frozen=True, kw_only=True)
class SetRead:
    """Which media of one set were read, now and before."""

    part: MediumPart
    """What one of its media says of the set."""
    numbers: frozenset[int]

    def still(self, need: Need) -> list[tuple[int, int, int]]:
        """Return the media that have something of a need, with how many files and bytes."""
        return [one for one in need.media(self.part) if one[0] not in self.numbers]

    def beyond(self, lacks: Sequence[Lack]) -> tuple[Lack, ...]:
        """Return what no medium of the set has that is still to be read."""
        media = enumerate(self.part.media, start=1)
        coming = [name for number, names in media if number not in self.numbers for name in names]
        pieces = [piece for piece in map(parse_piece, coming) if piece is not None]
        rest = []
        for lack in lacks:
            path = lack.entry.path
            starts = [start for name, start in pieces if name == path]
            ends = [self.part.piece_end(path, one, lack.entry.size_bytes) for one in starts]
            spans = list(zip(starts, ends, strict=True))
            left = tuple(
                one
                for one in lack.chunks or lack.all_chunks
                if not any(start <= one.offset < end for start, end in spans)
            )
            if path not in coming and (left or not lack.all_chunks):
                rest.append(replace(lack, chunks=left if spans else lack.chunks))
        return tuple(rest)


@dataclass(frozen=True)
class MediaRead:
    """Every set of media that came of a bundle: the first one, and repairs in between."""

    sets: tuple[SetRead, ...]

    @property
    def named(self) -> set[str]:
        """The files of which a medium of these sets has something."""
        names = [name for one in self.sets for medium in one.part.media for name in medium]
        return {(parse_piece(name) or (name, 0))[0] for name in names}

    def still(self, need: Need) -> list[tuple[int, int, int, int]]:
        """Return the media that have something of a need: number, of how many, files, bytes."""
        return [
            (number, len(one.part.media), count, size_bytes)
            for one in self.sets
            for number, count, size_bytes in one.still(need)
        ]

    def beyond(self, lacks: Sequence[Lack]) -> tuple[Lack, ...]:
        """Return what no medium of any set has that is still to be read."""
        rest = tuple(lacks)
        for one in self.sets:
            rest = one.beyond(rest)
        return rest


class IncompleteError(IntegrityError):
    """Files of a bundle are missing or bad; every good one is in the store.

    Attributes:
        need: what is to be brought, beside the media that are still to be read.
        still: what is missing, in a sentence, by medium where that is known.
        media: the numbers of the media that are still to be read.
        bad: what is wrong with what was read; all that is missing where every medium was.
        kept: where need.json is.
    """

    def __init__(self, error: LackError, need: Need, read: MediaRead, kept: Path) -> None:
        whole = Need(bundle_id=need.bundle_id, lacks=error.lacks)
        self.need = need
        self.still = told(whole, read)
        self.media = [number for number, *_ in read.still(whole)]
        self.kept = kept
        every = bool(read.sets) and not self.media
        self.bad = tuple(one.shown for one in error.lacks if every or one.defect is not None)
        refusal = inventory.refusal(self.bad or [one.shown for one in error.lacks], of=error.of)
        hint = (
            f"{error.hint}; or carry what {kept} names: "
            "llava-pack carry BUNDLE --to DIR --need need.json"
        )
        if self.media or (every and not {one.entry.path for one in error.lacks} <= read.named):
            hint = (
                f"go on with the other media, then carry what {kept} names: "
                "llava-pack carry BUNDLE --to DIR --need need.json"
            )
        super().__init__(refusal.message, hint=hint)

    def outstanding(self) -> dict[str, Any]:
        """Return what `--json` shows where media are still to come."""
        facts = {"missing_bytes": self.need.size_bytes, "media": self.media}
        return {"complete": False, **facts, "need": str(self.kept)}


def told(need: Need, read: MediaRead) -> str:
    """Return in one sentence what is to come."""
    media = read.still(need)
    if not media:
        return f"still missing: {len(need.lacks)} files, {human_bytes(need.size_bytes)}"
    return f"still missing: {'; '.join(_line(*amount) for amount in media)}"


def _line(number: int, of: int, count: int, size_bytes: int) -> str:
    return f"medium {number} of {of} ({count} files, {human_bytes(size_bytes)})"


def begin(prefix: Path, bundle_id: str, manifest_bytes: bytes) -> None:
    """Write down that the files of a bundle are wanted, before the first one comes."""
    (prefix / COLLECTING).mkdir(mode=0o755, exist_ok=True)
    files.write(prefix / COLLECTING / f"{bundle_id}.json", manifest_bytes, 0o644)


def media_read(prefix: Path, bundle_id: str, parts: Sequence[MediumPart]) -> MediaRead:
    """Return which media of which sets were read: `parts` now, others as need.json remembers."""
    sets: dict[tuple[tuple[str, ...], ...], set[int]] = {}
    with suppress(OSError, IntegrityError, TypeError, KeyError, ValueError):
        kept = canonical.loads((prefix / NAME).read_bytes(), max_bytes=_MAX_BYTES)
        for one in kept["sets"] if kept["bundle_id"] == bundle_id else ():
            media = tuple(tuple(map(str, names)) for names in one["media"])
            sets[media] = set(map(int, one["read"]))
    for part in parts:
        sets.setdefault(part.media, set()).add(part.medium)
    found = []
    for media, read in sets.items():
        part = MediumPart(bundle_id=bundle_id, medium=1, media=media)
        found.append(SetRead(part=part, numbers=frozenset(read)))
    return MediaRead(tuple(found))


def keep(prefix: Path, need: Need, read: MediaRead) -> Path:
    """Write down what is missing, and return where."""
    sets = [{"media": one.part.media, "read": sorted(one.numbers)} for one in read.sets]
    facts = {**need.facts(), "sets": sets}
    files.write(prefix / NAME, canonical.dumps(facts), 0o644)
    return prefix / NAME


def forget(prefix: Path, bundle_id: str, manifest: Manifest) -> None:
    """Say that nothing is missing of an installed bundle any more, nor of what it replaces."""
    for path in (prefix / COLLECTING).glob("*.json"):
        older = path.stem == bundle_id
        with suppress(IntegrityError):
            other = parse_manifest(path.read_bytes())
            older |= other.recipe == manifest.recipe and other.release <= manifest.release
        if older:
            path.unlink()
    with suppress(OSError):  # others are there
        (prefix / COLLECTING).rmdir()
        (prefix / NAME).unlink(missing_ok=True)


def collected(prefix: Path) -> Iterator[Manifest]:
    """Yield the manifests of the bundles that are not complete.

    Raises:
        IntegrityError: one cannot be read.
    """
    for path in sorted((prefix / COLLECTING).glob("*.json")):
        try:
            yield parse_manifest(path.read_bytes())
        except IntegrityError as error:
            hint = f"rm {path} gives up what was collected for it"
            raise IntegrityError(error.message, subject=str(path), hint=hint) from error


def read_manifest(
    prefix: Path, listing: BundleListing, progress: Progress
) -> tuple[Manifest, bytes]:
    """Read the manifest, of an earlier medium if need be, and name media with a damaged list."""
    for place in listing.spoiled:
        progress.note(f"! {place / SUMS_NAME}: changed; the list of another medium is used")
    return inventory.read_manifest(listing, kept=prefix / COLLECTING / f"{listing.bundle_id}.json")
