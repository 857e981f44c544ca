"""Files in chunks, each with a digest: what is split over media, and mended piece by piece.

Source: docs/reference/bundle-format.md, "Pieces".
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

CHUNK_BYTES = 64 * 1024 * 1024
_PIECE = re.compile(r"(.+)\.piece-(0|[1-9][0-9]{0,15})")


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """The digests of the chunks of large files."""

    size_bytes: int = CHUNK_BYTES
    """Of every chunk but the last one of a file."""
    sha256: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of each chunk, in order, by the digest of its file; files of one chunk have no entry."""

    def spans(self, sha256: str, size_bytes: int) -> tuple["FileChunk", ...]:
        """Return the chunks of a file in order; none where it has one alone, or none are known."""
        return tuple(
            FileChunk(at, min(self.size_bytes, size_bytes - at), digest)
            for at, digest in zip(
                range(0, size_bytes, self.size_bytes), self.sha256.get(sha256, ()), strict=False
            )
        )

    def defect(self, sizes: Mapping[str, int]) -> str | None:
        """Return what is wrong, with the size in bytes of each file by its digest; None if nothing.

        >>> Chunks(size_bytes=4, sha256={"ab": ("0" * 64,)}).defect({"ab": 9})
        'expected 3 chunks of ab, got 1'
        """
        if not self.size_bytes:
            return "expected a size of at least 1 byte"
        for sha256, digests in self.sha256.items():
            expected = -(-sizes.get(sha256, 0) // self.size_bytes)
            if len(digests) != expected:
                return f"expected {expected} chunks of {sha256}, got {len(digests)}"
            if not all(re.fullmatch("[0-9a-f]{64}", one) for one in digests):
                return f"expected 64 hex digits for each chunk of {sha256}"
        return None


NO_CHUNKS = Chunks()
"""Of a bundle that says nothing about chunks."""


@dataclass(frozen=True)
class FileChunk:
    """A part of a file."""

    offset: int
    size_bytes: int
    sha256: str

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.offset + self.size_bytes


def piece_name(path: str, offset: int) -> str:
    """Return the name of a file that holds `path` from `offset` on, for whole chunks.

    >>> piece_name("model/a.safetensors", 67108864)
    'model/a.safetensors.piece-67108864'
    """
    return f"{path}.piece-{offset}"


def parse_piece(name: str) -> tuple[str, int] | None:
    """Return whose piece a name says to be, and from which offset on; None where it says no such.

    >>> parse_piece("model/a.safetensors.piece-67108864")
    ('model/a.safetensors', 67108864)
    """
    match = _PIECE.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def covered(size_bytes: int, spans: Iterable[tuple[int, int]]) -> bool:
    """Say whether spans, each from an offset to an end, cover a file.

    >>> covered(9, [(4, 9), (0, 4)]), covered(9, [(0, 4), (5, 9)])
    (True, False)
    """
    reached = 0
    for start, end in sorted(spans):
        if start > reached:
            return False
        reached = max(reached, end)
    return reached >= size_bytes


def within(chunks: Iterable[FileChunk], start: int, end: int) -> tuple[FileChunk, ...]:
    """Return the chunks that begin in a span of their file."""
    return tuple(one for one in chunks if start <= one.offset < end)


def runs(chunks: Iterable[FileChunk]) -> Iterator[tuple[int, int]]:
    """Yield chunks that follow each other as one span, from its offset to its end."""
    start = end = None
    for chunk in chunks:
        if start is None or chunk.offset != end:
            if start is not None and end is not None:
                yield start, end
            start = chunk.offset
        end = chunk.end
    if start is not None and end is not None:
        yield start, end
