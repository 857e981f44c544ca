"""The zip container of a published `.bin`: where each stored member's bytes lie in the file.

Only what `torch.save` writes is accepted: members stored without compression or encryption, unique
names, bytes inside the file and no two members over the same bytes.

Source: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header) and 4.5.3 (zip64).
"""

import io
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llava_pack.checkpoint.mapped_file import MappedFile
from llava_pack.format.errors import CheckpointError

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_MAX_DIRECTORY_BYTES = 4 << 20
_END_BYTES = 1 << 17
"""More than an archive's last record and its comment."""


@dataclass(frozen=True, slots=True)
class Member:
    """One stored member: its name, where its bytes lie in the file, and their CRC-32."""

    name: str
    offset_bytes: int
    size_bytes: int
    crc32: int


class _CarefulFile(io.BufferedIOBase):
    """A file that refuses to be read in large pieces: an archive's directory is a small thing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int | None = -1) -> bytes:
        wanted = _END_BYTES if size is None or size < 0 else size
        if wanted > _MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a directory of more than {_MAX_DIRECTORY_BYTES} bytes")
        return self._file.read(wanted)


def read_members(path: Path, mapped: MappedFile) -> dict[str, Member]:
    """Return every member of the archive by name.

    Raises:
        CheckpointError: this is no zip archive, or not one that `torch.save` writes.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(_CarefulFile(file)) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise CheckpointError(
            f"not a complete zip archive ({error}): truncated, or not a torch checkpoint",
            subject=path.name,
            hint="download it again",
        ) from error
    members: dict[str, Member] = {}
    for info in infos:
        if info.filename in members:
            raise CheckpointError(
                f"archive member {info.filename!r} appears twice", subject=path.name
            )
        members[info.filename] = _member(info, mapped, path.name)
    _refuse_overlap(members, path.name)
    return members


def _member(info: zipfile.ZipInfo, mapped: MappedFile, subject: str) -> Member:
    name = info.filename
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise CheckpointError(
            f"archive member {name!r} is compressed, expected stored bytes", subject=subject
        )
    if info.flag_bits & _ENCRYPTED:
        raise CheckpointError(f"archive member {name!r} is encrypted", subject=subject)
    header = mapped.view(info.header_offset, _LOCAL_HEADER.size)
    fields = _LOCAL_HEADER.unpack(header)
    if fields[0] != b"PK\x03\x04":
        raise CheckpointError(
            f"archive member {name!r} has no local header at {info.header_offset}",
            subject=subject,
        )
    name_bytes, extra_bytes = fields[-2], fields[-1]
    local = bytes(mapped.view(info.header_offset + _LOCAL_HEADER.size, name_bytes))
    encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
    if local.decode(encoding, "replace") != info.orig_filename:
        raise CheckpointError(
            f"archive member {name!r} is called {local!r} in its own header", subject=subject
        )
    start = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    mapped.view(start, info.file_size)
    return Member(name, start, info.file_size, info.CRC)


def _refuse_overlap(members: dict[str, Member], subject: str) -> None:
    end = 0
    previous = ""
    for member in sorted(members.values(), key=lambda m: (m.offset_bytes, m.size_bytes)):
        if member.offset_bytes < end:
            raise CheckpointError(
                f"archive members {previous!r} and {member.name!r} overlap",
                subject=subject,
            )
        if member.size_bytes:
            end, previous = member.offset_bytes + member.size_bytes, member.name
