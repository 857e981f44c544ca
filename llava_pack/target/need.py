"""What is missing of a bundle whose good files are in the store, and what to bring for it."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llava_pack.format import canonical, files
from llava_pack.format.chunks import FileChunk, parse_piece, runs
from llava_pack.format.digest_list import short_form
from llava_pack.format.errors import IntegrityError
from llava_pack.format.manifest import FileEntry, Manifest, parse_manifest
from llava_pack.format.part import MediumPart
from llava_pack.format.text import human_bytes
from llava_pack.target import inventory
from llava_pack.target.inventory import COPY_AGAIN, FileDefect

NAME = "need.json"
COLLECTING = "collecting"
"""Below it the manifest of each bundle that is not complete: what gc keeps the files of."""
SCHEMA = 1
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

    def render(self) -> bytes:
        """Return the bytes of need.json."""
        entries = [lack.entry for lack in self.lacks if not lack.chunks]
        spans = [(lack.entry, span) for lack in self.lacks for span in runs(lack.chunks)]
        return canonical.dumps(
            {
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
        )

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
    if not chunks:
        return end - start
    return sum(chunk.size_bytes for chunk in chunks if start <= chunk.offset < end)


class IncompleteError(IntegrityError):
    """Files of a bundle are missing or bad; every good one is in the store.

    Attributes:
        need: what is to be brought.
        still: the same in a sentence, by medium where that is known.
        media: the numbers of the media that have it, of those that were not read now.
        bad: what is wrong with files that are there.
        kept: where need.json is.
    """

    def __init__(
        self, error: LackError, need: Need, parts: Sequence[MediumPart], kept: Path
    ) -> None:
        hint = (
            f"{error.hint}; or carry what {kept} names: "
            "llava-pack carry BUNDLE --to DIR --need need.json"
        )
        super().__init__(error.message, hint=hint)
        self.need = need
        self.still = told(need, parts)
        self.media = [number for number, *_ in _others(need, parts)]
        self.bad = tuple(lack.defect for lack in need.lacks if lack.defect is not None)
        self.kept = kept


def told(need: Need, parts: Sequence[MediumPart]) -> str:
    """Return in one sentence what is to come, with `parts` of the media that were read."""
    media = _others(need, parts)
    if not media:
        return f"still missing: {len(need.lacks)} files, {human_bytes(need.size_bytes)}"
    of = len(parts[0].media)
    return f"still missing: {'; '.join(_line(of, *amount) for amount in media)}"


def _line(of: int, number: int, count: int, size_bytes: int) -> str:
    return f"medium {number} of {of} ({count} files, {human_bytes(size_bytes)})"


def _others(need: Need, parts: Sequence[MediumPart]) -> list[tuple[int, int, int]]:
    read = {part.medium for part in parts}
    return [one for one in need.media(parts[0]) if one[0] not in read] if parts else []


def begin(prefix: Path, bundle_id: str, manifest_bytes: bytes) -> None:
    """Write down that the files of a bundle are wanted, before the first one comes."""
    (prefix / COLLECTING).mkdir(mode=0o755, exist_ok=True)
    files.write(prefix / COLLECTING / f"{bundle_id}.json", manifest_bytes, 0o644)


def keep(prefix: Path, need: Need) -> Path:
    """Write down what is missing, and return where."""
    files.write(prefix / NAME, need.render(), 0o644)
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
    if not any((prefix / COLLECTING).glob("*.json")):
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
