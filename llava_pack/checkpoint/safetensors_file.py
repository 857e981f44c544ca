"""safetensors files: a bounded reader over the mapped file, and a writer that streams.

Layout: 8 bytes little-endian header size N, N bytes of JSON, then the tensors' bytes without gaps.

Source: huggingface/safetensors README, "Format" (header at most 100 MB, offsets contiguous,
no duplicate keys, header begins with `{` and may be padded with spaces).
"""

import json
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO, Self

from llava_pack.checkpoint.mapped_file import MappedFile
from llava_pack.checkpoint.tensors import ELEMENT_BYTES, TensorEntry, checked_shape
from llava_pack.format.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
_LENGTH = struct.Struct("<Q")
_AGAIN = "download it again"
_PIECE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says about itself; entries in the order of their bytes."""

    entries: tuple[TensorEntry, ...]
    metadata: Mapping[str, str]
    size_bytes: int


def read_header(path: Path) -> Header:
    """Return the checked header of a file, reading nothing else of it.

    Raises:
        CheckpointError: the header is truncated, malformed, or promises bytes that are not there.
    """
    try:
        with path.open("rb") as file:
            size_bytes = file.seek(0, os.SEEK_END)
            file.seek(0)
            return parse_header(file, size_bytes, subject=path.name)
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise CheckpointError(f"cannot be read: {reason}", subject=path.name) from error


def parse_header(stream: BinaryIO | BufferedIOBase, size_bytes: int, *, subject: str) -> Header:
    """Return the checked header of a stream that stands at the file's first byte.

    Args:
        stream: at least the header's bytes; a Hub file's first bytes will do.
        size_bytes: the whole file's size.
        subject: the file's name, for messages.

    Raises:
        CheckpointError: see `read_header`.
    """
    prefix = stream.read(_LENGTH.size)
    if prefix.startswith(b"version "):
        raise CheckpointError(
            "this is a Git LFS pointer, not the weights themselves",
            subject=subject,
            hint="run `git lfs pull` in that folder, or name the Hub repository as the source",
        )
    if len(prefix) < _LENGTH.size:
        raise CheckpointError(
            f"the file has {len(prefix)} bytes, expected a safetensors header",
            subject=subject,
            hint=_AGAIN,
        )
    (length,) = _LENGTH.unpack(prefix)
    if length > MAX_HEADER_BYTES or length > size_bytes - _LENGTH.size:
        raise CheckpointError(
            f"its header claims {length} bytes, expected at most "
            f"{min(MAX_HEADER_BYTES, size_bytes - _LENGTH.size)}: truncated, or not safetensors",
            subject=subject,
            hint=_AGAIN,
        )
    body = _parsed(stream.read(length), length, subject)
    metadata = body.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError("its metadata is not a map of strings", subject=subject)
    start = _LENGTH.size + length
    entries = sorted(
        (_entry(name, value, start, subject) for name, value in body.items()),
        key=lambda entry: (entry.offset_bytes, entry.size_bytes),
    )
    _check_places(entries, start, size_bytes, subject)
    return Header(tuple(entries), metadata, start)


def _parsed(data: bytes, length: int, subject: str) -> dict[str, Any]:
    if len(data) != length or not data.startswith(b"{"):
        raise CheckpointError(
            "its header is truncated, or not a JSON object", subject=subject, hint=_AGAIN
        )
    try:
        body: dict[str, Any] = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"its header is not valid JSON ({error})", subject=subject, hint=_AGAIN
        ) from error
    return body


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a tensor name appears twice")
    return table


def _entry(name: str, value: Any, start: int, subject: str) -> TensorEntry:
    offsets = value.get("data_offsets") if isinstance(value, dict) else None
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(offset) is int and 0 <= offset < 1 << 62 for offset in offsets)
    ):
        raise CheckpointError(f"tensor {name!r} has no valid data_offsets", subject=subject)
    dtype = value.get("dtype")
    if not isinstance(dtype, str) or dtype not in ELEMENT_BYTES:
        raise CheckpointError(
            f"tensor {name!r} is of type {dtype!r}, expected one of {', '.join(ELEMENT_BYTES)}",
            subject=subject,
        )
    shape = checked_shape(value.get("shape"), subject=subject, name=f"tensor {name!r}")
    entry = TensorEntry(name, dtype, shape, start + offsets[0])
    if offsets[1] - offsets[0] != entry.size_bytes:
        raise CheckpointError(
            f"tensor {name!r} has {offsets[1] - offsets[0]} bytes, "
            f"its shape {shape} of {dtype} needs {entry.size_bytes}",
            subject=subject,
        )
    return entry


def _check_places(
    entries: Sequence[TensorEntry], start: int, size_bytes: int, subject: str
) -> None:
    end = start
    for entry in entries:
        if entry.offset_bytes != end:
            raise CheckpointError(
                f"tensor {entry.name!r} begins at {entry.offset_bytes}, expected {end}: "
                "its bytes overlap another's or leave a gap",
                subject=subject,
            )
        end += entry.size_bytes
    if end != size_bytes:
        promised, has = f"{end} bytes", f"{size_bytes} bytes"
        raise CheckpointError(
            f"its header promises {promised}, the file has {has}",
            subject=subject,
            hint=_AGAIN,
        )


class SafetensorsFile:
    """An open safetensors file; see `TensorFile`."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = path
        self._header = read_header(path)
        self._mapped = MappedFile(path, writable=writable)

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """Every tensor, in the order of their bytes."""
        return self._header.entries

    @property
    def metadata(self) -> Mapping[str, str]:
        """The header's `__metadata__`."""
        return self._header.metadata

    def read(self, entry: TensorEntry) -> memoryview:
        """Return the tensor's bytes without a copy."""
        return self._mapped.view(entry.offset_bytes, entry.size_bytes)

    def verify(self, entry: TensorEntry) -> None:
        """Do nothing: a safetensors file has no checksums, its publisher's digest is the check."""

    def release(self, entry: TensorEntry) -> None:
        """Let the system take back the pages that reading `entry` brought in."""
        self._mapped.release(entry.offset_bytes, entry.size_bytes)

    def close(self) -> None:
        """Drop the file; views that were handed out stay valid."""
        self._mapped.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def render_header(
    entries: Iterable[TensorEntry], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return length and header of a file that holds `entries` in this order, without gaps.

    The header is padded so that the first tensor begins at a multiple of 64 bytes.
    """
    body: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    offset = 0
    for entry in entries:
        end = offset + entry.size_bytes
        body[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + _LENGTH.size) % 64)
    if len(text) > MAX_HEADER_BYTES:
        raise CheckpointError(f"a header of {len(text)} bytes is larger than the format allows")
    return _LENGTH.pack(len(text)) + text


def written_order(entries: Iterable[TensorEntry]) -> list[TensorEntry]:
    """Return entries as a file holds them: wide types first, so that each is aligned.

    The order among equals is kept.
    """
    return sorted(entries, key=lambda entry: -ELEMENT_BYTES[entry.dtype])


class SafetensorsWriter:
    """Writes one file tensor by tensor; what it holds is fixed beforehand.

    Args:
        out: a binary stream at its beginning.
        entries: names, types and shapes, in any order.
        metadata: the header's `__metadata__`, `{"format": "pt"}` by default (transformers asks).
    """

    def __init__(
        self,
        out: BinaryIO,
        entries: Iterable[TensorEntry],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._out = out
        self._left = written_order(entries)
        self._left.reverse()
        out.write(render_header(reversed(self._left), metadata))

    def write_all(
        self,
        read: Callable[[TensorEntry], memoryview],
        on_bytes: Callable[[int], None] | None = None,
        done: Callable[[TensorEntry], None] | None = None,
    ) -> None:
        """Write every tensor, asking for one at a time, in pieces of a few MiB.

        Args:
            read: returns the bytes of an entry; called once for each, in the file's order.
            on_bytes: told how many bytes were written.
            done: told each entry after its last byte.
        """
        while self._left:
            entry = self._left.pop()
            self._write(entry, read(entry), on_bytes)
            if done is not None:
                done(entry)

    def _write(
        self, entry: TensorEntry, data: memoryview, on_bytes: Callable[[int], None] | None
    ) -> None:
        if data.nbytes != entry.size_bytes:
            raise CheckpointError(
                f"tensor {entry.name!r} has {data.nbytes} bytes, expected {entry.size_bytes}"
            )
        flat = data.cast("B") if data.format != "B" or data.ndim != 1 else data
        for start in range(0, len(flat), _PIECE_BYTES):
            piece = flat[start : start + _PIECE_BYTES]
            self._out.write(piece)
            if on_bytes is not None:
                on_bytes(len(piece))
