"""Published `.bin` checkpoints, read without executing anything and without torch.

The pickle inside is interpreted as data (`pickle_program`), the tensors' bytes are stored members
of the zip container (`stored_archive`), read in place from the mapped file.

Source: torch/serialization.py, `_save` (member names, byte order), torch 1.6 and later.
"""

import math
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from llava_pack.checkpoint.mapped_file import MappedFile
from llava_pack.checkpoint.pickle_program import MAX_PROGRAM_BYTES, read_state_dict
from llava_pack.checkpoint.pieces import Bytes, check_some
from llava_pack.checkpoint.state_records import TensorRecord
from llava_pack.checkpoint.stored_archive import Member, listed_members, placed, refuse_overlap
from llava_pack.checkpoint.tensors import (
    ELEMENT_BYTES,
    TensorEntry,
    gathered,
    is_row_by_row,
    row_strides,
)
from llava_pack.format.errors import CheckpointError

MAX_EXPANDED_BYTES = 64 << 20
"""Of a tensor that is larger than its storage, as after `expand`: a buffer, never a weight."""
MAX_TIMES = 8
"""How often the bytes of a file may be counted, in tensors that share them: tied weights, twice."""
_PIECE_BYTES = 8 << 20
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_CONVERT_HINT = (
    "open it with a current torch on a machine that you trust and save it again, "
    "or use the publisher's safetensors"
)


class PickleFile:
    """An open `.bin`; see `TensorFile`."""

    def __init__(
        self,
        path: Path,
        mapped: MappedFile,
        entries: tuple[TensorEntry, ...],
        storages: Iterable[Member],
    ) -> None:
        self.path = path
        self.entries = entries
        self._mapped = mapped
        self._unverified = sorted(
            (member for member in storages if member.size_bytes),
            key=lambda member: member.offset_bytes,
        )

    def read(self, entry: TensorEntry) -> memoryview:
        """Return the tensor's bytes; a copy only where its elements do not lie row by row."""
        if entry.strides is None:
            return self._mapped.view(entry.offset_bytes, entry.size_bytes)
        extent = _extent_bytes(entry.shape, entry.strides, entry.dtype)
        return gathered(self._mapped.view(entry.offset_bytes, extent), entry)

    def verify(self, entry: TensorEntry) -> None:
        """Hold the storage that the tensor lies in against the archive's CRC-32, once.

        Raises:
            CheckpointError: the bytes have changed since the file was written.
        """
        place = bisect_right(self._unverified, entry.offset_bytes, key=lambda m: m.offset_bytes) - 1
        if place < 0:
            return
        member = self._unverified[place]
        if entry.offset_bytes >= member.offset_bytes + member.size_bytes:
            return
        _check_crc(member, self._mapped, self.path.name)
        del self._unverified[place]

    def release(self, entry: TensorEntry) -> None:
        """Let the system take back the pages that reading `entry` brought in."""
        strides = entry.strides or row_strides(entry.shape)
        self._mapped.release(entry.offset_bytes, _extent_bytes(entry.shape, strides, entry.dtype))

    def close(self) -> None:
        """Drop the file; views that were handed out stay valid."""
        self._mapped.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def open_pickle(path: Path, *, writable: bool = False) -> PickleFile:
    """Open a published `.bin` and return its tensors' names, types, shapes and places.

    Args:
        path: a file that `torch.save` wrote.
        writable: see `MappedFile`.

    Raises:
        CheckpointError: it is damaged, or holds anything but a flat dict of tensors.
    """
    mapped = MappedFile(path, writable=writable)
    _refuse_old_formats(mapped, path.name)
    members = listed_members(mapped, path.name)
    members = {name: placed(one, mapped, path.name) for name, one in members.items()}
    refuse_overlap(members, path.name)
    folder = _folder(members, path.name)
    entries = _entries(members, folder, mapped, path.name)
    storages = [m for name, m in members.items() if name.startswith(f"{folder}/data/")]
    return PickleFile(path, mapped, entries, storages)


def pickle_header(file: Bytes, *, subject: str) -> tuple[TensorEntry, ...]:
    """Return the names, types and shapes of a `.bin`'s tensors; where they lie is not looked at.

    Args:
        file: its beginning and its end are enough.
        subject: its name.

    Raises:
        CheckpointError: it is damaged, or holds anything but a flat dict of tensors.
    """
    check_some(file.size_bytes, subject)
    _refuse_old_formats(file, subject)
    members = listed_members(file, subject)
    folder = _folder(members, subject)
    for name in (f"{folder}/data.pkl", f"{folder}/byteorder"):
        if name in members:
            members[name] = placed(members[name], file, subject)
    return _entries(members, folder, file, subject)


def _entries(
    members: Mapping[str, Member], folder: str, file: Bytes, subject: str
) -> tuple[TensorEntry, ...]:
    """Return the tensors, by the pickle and the members that hold their storages."""
    _check_byte_order(members, folder, file, subject)
    program = members[f"{folder}/data.pkl"]
    if program.size_bytes > MAX_PROGRAM_BYTES:
        raise CheckpointError(
            f"its pickle claims {program.size_bytes} bytes, expected at most {MAX_PROGRAM_BYTES}",
            subject=subject,
        )
    _check_crc(program, file, subject)
    records = read_state_dict(
        bytes(file.view(program.offset_bytes, program.size_bytes)), subject=subject
    )
    entries = tuple(
        _placed(name, record, members, folder, subject) for name, record in records.items()
    )
    _refuse_too_much(entries, file.size_bytes, subject)
    return entries


def _refuse_old_formats(file: Bytes, subject: str) -> None:
    head = bytes(file.view(0, min(file.size_bytes, 512)))
    if head[2 : 2 + len(_LEGACY_MAGIC)] == _LEGACY_MAGIC or head[257:262] == b"ustar":
        raise CheckpointError(
            "written by torch before 1.6 (not a zip archive), which is not supported",
            subject=subject,
            hint=_CONVERT_HINT,
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            "this is a Git LFS pointer, not the weights themselves",
            subject=subject,
            hint="run `git lfs pull` in that folder, or name the Hub repository as the source",
        )


def _folder(members: Mapping[str, Member], subject: str) -> str:
    roots = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise CheckpointError(
            f"expected one data.pkl in the archive, got {len(roots)}: not a torch checkpoint",
            subject=subject,
            hint=_CONVERT_HINT,
        )
    if f"{roots[0]}/constants.pkl" in members or f"{roots[0]}/code/" in members:
        raise CheckpointError(
            "this is a TorchScript program, expected a state dict",
            subject=subject,
            hint=_CONVERT_HINT,
        )
    return roots[0]


def _check_byte_order(
    members: Mapping[str, Member], folder: str, file: Bytes, subject: str
) -> None:
    marker = members.get(f"{folder}/byteorder")
    if marker is None:
        return
    _check_crc(marker, file, subject)
    order = bytes(file.view(marker.offset_bytes, min(marker.size_bytes, 16)))
    if order != b"little":
        raise CheckpointError(
            f"written on a machine of byte order {order!r}, expected b'little'",
            subject=subject,
            hint=_CONVERT_HINT,
        )


def _placed(
    name: str, record: TensorRecord, members: Mapping[str, Member], folder: str, subject: str
) -> TensorEntry:
    """Return where a tensor's bytes lie in the file, after checking that they do."""
    member = members.get(f"{folder}/data/{record.storage.key}")
    if member is None:
        raise CheckpointError(
            f"tensor {name!r} lies in data/{record.storage.key}, which the archive does not hold",
            subject=subject,
            hint="download it again",
        )
    stored = record.storage.count * ELEMENT_BYTES[record.storage.dtype or "U8"]
    if member.size_bytes != stored:
        raise CheckpointError(
            f"data/{record.storage.key} has {member.size_bytes} bytes, expected {stored}",
            subject=subject,
            hint="download it again",
        )
    size = ELEMENT_BYTES[record.dtype]
    total = math.prod(record.shape) * size
    extent = _extent_bytes(record.shape, record.strides, record.dtype)
    if record.offset * size + extent > stored or total > max(stored, MAX_EXPANDED_BYTES):
        raise CheckpointError(
            f"tensor {name!r} of shape {record.shape} claims {total} bytes, "
            f"its storage has {stored}",
            subject=subject,
        )
    return TensorEntry(
        name=name,
        dtype=record.dtype,
        shape=record.shape,
        offset_bytes=member.offset_bytes + record.offset * size,
        strides=None if is_row_by_row(record.shape, record.strides) else record.strides,
    )


def _refuse_too_much(entries: Iterable[TensorEntry], file_bytes: int, subject: str) -> None:
    """Refuse a small file that would be written as an endless one: many tensors, one storage."""
    total, most = sum(entry.size_bytes for entry in entries), MAX_TIMES * file_bytes
    if total > most + MAX_EXPANDED_BYTES:
        raise CheckpointError(
            f"its tensors claim {total} bytes in total, the file has {file_bytes}", subject=subject
        )


def _check_crc(member: Member, file: Bytes, subject: str) -> None:
    """Hold a member's bytes against the CRC-32 that the archive's directory keeps of them.

    Source: torch.serialization.set_crc32_options (a directory of zeros: none was computed).
    """
    if not member.crc32:
        return
    found = 0
    for start in range(0, member.size_bytes, _PIECE_BYTES):
        size = min(_PIECE_BYTES, member.size_bytes - start)
        found = zlib.crc32(file.view(member.offset_bytes + start, size), found)
    if found != member.crc32:
        raise CheckpointError(
            f"{member.name} has CRC-32 {found:08x}, expected {member.crc32:08x}: "
            "the bytes are damaged",
            subject=subject,
            hint="download it again",
        )


def _extent_bytes(shape: tuple[int, ...], strides: tuple[int, ...], dtype: str) -> int:
    """Return bytes from a tensor's first element to the end of its last."""
    if 0 in shape:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return (last + 1) * ELEMENT_BYTES[dtype]
