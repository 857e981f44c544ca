"""The zip container of a published `.bin`: where each stored member's bytes lie in the file.

Only what `torch.save` writes is accepted: members stored without compression or encryption, unique
names, bytes inside the file and no two members over the same bytes.

Source: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header) and 4.5.3 (zip64).
"""

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace

from llava_pack.checkpoint.pieces import Bytes, Viewed, check_inside
from llava_pack.format.errors import CheckpointError

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_MAX_DIRECTORY_BYTES = 4 << 20
_UTF8 = 0x800
END_BYTES = 1 << 17
"""More than an archive's last record and its comment."""


@dataclass(frozen=True, slots=True)
class Member:
    """One stored member: its name, where it lies in the file, and the CRC-32 of its bytes.

    `own_name` is what its own header has to call it.
    """

    name: str
    offset_bytes: int
    size_bytes: int
    crc32: int
    own_name: bytes


class _Directory(Viewed):
    """A file that refuses to be read in large pieces: an archive's directory is a small thing."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a directory of more than {_MAX_DIRECTORY_BYTES} bytes")
        return super().read(size)


def listed_members(file: Bytes, subject: str) -> dict[str, Member]:
    """Return every member of an archive by name, as its directory tells; see `placed`.

    Raises:
        CheckpointError: this is no zip archive, or not one that `torch.save` writes.
    """
    try:
        with zipfile.ZipFile(_Directory(file, END_BYTES)) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise CheckpointError(
            f"not a complete zip archive ({error}): truncated, or not a torch checkpoint",
            subject=subject,
            hint="download it again",
        ) from error
    members: dict[str, Member] = {}
    for info in infos:
        name = info.filename
        if name in members:
            raise CheckpointError(f"archive member {name!r} appears twice", subject=subject)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise CheckpointError(
                f"archive member {name!r} is compressed, expected stored bytes", subject=subject
            )
        if info.flag_bits & _ENCRYPTED:
            raise CheckpointError(f"archive member {name!r} is encrypted", subject=subject)
        own = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437", "replace")
        members[name] = Member(name, info.header_offset, info.file_size, info.CRC, own)
    return members


def placed(member: Member, file: Bytes, subject: str) -> Member:
    """Return a member whose bytes lie at its offset, where its own header had been.

    Raises:
        CheckpointError: the header is none, or another's; or the bytes would lie outside the file.
    """
    header = file.view(member.offset_bytes, _LOCAL_HEADER.size)
    fields = _LOCAL_HEADER.unpack(header)
    if fields[0] != b"PK\x03\x04":
        raise CheckpointError(
            f"archive member {member.name!r} has no local header at {member.offset_bytes}",
            subject=subject,
        )
    name_bytes, extra_bytes = fields[-2], fields[-1]
    local = bytes(file.view(member.offset_bytes + _LOCAL_HEADER.size, name_bytes))
    if local != member.own_name:
        raise CheckpointError(
            f"archive member {member.name!r} is called {local!r} in its own header",
            subject=subject,
        )
    start = member.offset_bytes + _LOCAL_HEADER.size + name_bytes + extra_bytes
    check_inside(start, member.size_bytes, file.size_bytes, subject)
    return replace(member, offset_bytes=start)


def refuse_overlap(members: Mapping[str, Member], subject: str) -> None:
    """Refuse members that lie over the same bytes.

    Raises:
        CheckpointError: two do.
    """
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
