"""What a shared object needs of a system, read off the file itself; nothing is loaded.

Source: System V ABI (ELF-64), Linux Standard Base Core (symbol versioning), the x86-64 psABI
(.note.gnu.property).
"""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

MAGIC = b"\x7fELF"
MACHINES = {62: "x86_64", 183: "aarch64"}
_LITTLE_64 = b"\x02\x01"
_LOAD, _DYNAMIC, _NOTE = 1, 2, 4
_NEEDED, _STRTAB, _STRSZ, _VERNEED, _VERNEEDNUM = 1, 5, 10, 0x6FFFFFFE, 0x6FFFFFFF
_WEAK = 2
_PROPERTY_NOTE, _ISA_NEEDED = 5, 0xC0008002
_MOST_BYTES = 256 << 20
"""No table of a real library is larger."""
_MOST_FILE_BYTES = 1 << 48
_KEPT_BYTES = 64 << 20
"""Most libraries are kept whole; of others, where symbol versions lie (7 MB in torch 2.15's)."""
_MOST_SEGMENTS = 4096
_VERSION = re.compile(rb"(GLIBC|GLIBCXX)_([0-9]+(?:\.[0-9]+)+)")
_RELR = (b"GLIBC_ABI_DT_RELR", ("GLIBC", (2, 36)))


class NotReadable(Exception):  # noqa: N818 - a signal: the file is no ELF file that this reader knows
    """The file is not a little-endian 64-bit ELF file, or is damaged."""


@dataclass(frozen=True, kw_only=True)
class ElfNeeds:
    """What one file needs.

    Attributes:
        machine: `x86_64` or `aarch64`, None for another.
        versions: newest symbol version by library and family, for example
            `("libc.so.6", "GLIBC"): (2, 28)`; weak ones left out, the loader forgives those.
        isa: x86-64 level that its linker marked as needed: 1 to 4, 0 for no mark.
        libraries: names of those that must be there for it to be loaded.
    """

    machine: str | None
    versions: Mapping[tuple[str, str], tuple[int, ...]]
    isa: int = 0
    libraries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


class _Kept:
    """A stream whose beginning is kept as it is read: in an archive, going back is reading anew.

    A linker puts symbol versions at the beginning of a library, and what points at them at its end.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._kept = bytearray()

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`."""
        end = offset + size
        missing = min(end, _KEPT_BYTES) - len(self._kept)
        if missing > 0:
            self._stream.seek(len(self._kept))
            self._kept += self._stream.read(missing)
        if end <= len(self._kept):
            return bytes(self._kept[offset:end])
        self._stream.seek(offset)
        return self._stream.read(size)


def read_needs(stream: BinaryIO) -> ElfNeeds:
    """Return what an ELF file needs.

    Args:
        stream: can seek; the needed tables are read, and nothing is held but them.

    Raises:
        NotReadable: it is not a little-endian 64-bit ELF file, or is damaged.
    """
    kept = _Kept(stream)
    try:
        header = _read(kept, 0, 64)
        if header[:4] != MAGIC or header[4:6] != _LITTLE_64:
            raise NotReadable("not a little-endian 64-bit ELF file")
        (machine,) = struct.unpack_from("<H", header, 18)
        segments = tuple(_segments(kept, header))
        isa = max((_isa(kept, one) for one in segments if one.kind == _NOTE), default=0)
        libraries, versions = _dynamic(kept, segments)
        return ElfNeeds(
            machine=MACHINES.get(machine), versions=versions, isa=isa, libraries=libraries
        )
    except struct.error as error:
        raise NotReadable("a table is truncated") from error


def _segments(stream: _Kept, header: bytes) -> Iterator[_Segment]:
    (offset,) = struct.unpack_from("<Q", header, 32)
    size, count = struct.unpack_from("<HH", header, 54)
    if (count and size < 56) or count > _MOST_SEGMENTS:
        raise NotReadable("program headers of another size")
    table = _read(stream, offset, size * count)
    for index in range(count):
        kind, _, place, address, _, length = struct.unpack_from("<IIQQQQ", table, index * size)
        yield _Segment(kind, place, address, length)


def _dynamic(
    stream: _Kept, segments: tuple[_Segment, ...]
) -> tuple[tuple[str, ...], dict[tuple[str, str], tuple[int, ...]]]:
    """Return the needed libraries and the newest needed version of each family."""
    dynamic = next((one for one in segments if one.kind == _DYNAMIC), None)
    if dynamic is None:
        return (), {}
    table = _read(stream, dynamic.offset, dynamic.size - dynamic.size % 16)
    rows = list(struct.iter_unpack("<QQ", table))
    tags = dict(rows)
    if not {_STRTAB, _STRSZ} <= tags.keys():
        return (), {}
    names = _read(stream, _place(tags[_STRTAB], segments), tags[_STRSZ])
    wanted = (_name(names, value) for tag, value in rows if tag == _NEEDED)
    libraries = tuple(library.decode("ascii", "replace") for library in wanted)
    if not tags.get(_VERNEEDNUM):
        return libraries, {}
    if _VERNEED not in tags:
        raise NotReadable("symbol versions without their table")
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for library, version in _needed(stream, _place(tags[_VERNEED], segments), tags, names):
        known = _numbered(version)
        if known is not None:
            key = library.decode("ascii", "replace"), known[0]
            found[key] = max(found.get(key, ()), known[1])
    return libraries, found


def _needed(
    stream: _Kept, offset: int, tags: Mapping[int, int], names: bytes
) -> Iterator[tuple[bytes, bytes]]:
    """Yield library and version of every needed version that is not weak."""
    for _ in range(min(tags[_VERNEEDNUM], _MOST_SEGMENTS)):
        _, count, file, aux, after = struct.unpack("<HHIII", _read(stream, offset, 16))
        place = offset + aux
        for _ in range(count):
            _, flags, _, name, step = struct.unpack("<IHHII", _read(stream, place, 16))
            if not flags & _WEAK:
                yield _name(names, file), _name(names, name)
            place += step
        offset += after


def _numbered(version: bytes) -> tuple[str, tuple[int, ...]] | None:
    if version == _RELR[0]:
        return _RELR[1]
    match = _VERSION.fullmatch(version)
    return match and (match[1].decode(), tuple(int(part) for part in match[2].split(b".")))


def _name(names: bytes, offset: int) -> bytes:
    return names[offset:].partition(b"\0")[0] if offset < len(names) else b""


def _isa(stream: _Kept, note: _Segment) -> int:
    """Return the x86-64 level that a note asks for."""
    table = _read(stream, note.offset, note.size)
    offset = 0
    while offset + 12 <= len(table):
        name_size, size, kind = struct.unpack_from("<III", table, offset)
        body = offset + 12 + _aligned(name_size, 4)
        if kind == _PROPERTY_NOTE and table[offset + 12 : offset + 16] == b"GNU\0":
            return _property(table[body : body + size])
        offset = body + _aligned(size, 4)
    return 0


def _property(table: bytes) -> int:
    offset = 0
    while offset + 8 <= len(table):
        kind, size = struct.unpack_from("<II", table, offset)
        if kind == _ISA_NEEDED and size == 4:
            (bits,) = struct.unpack_from("<I", table, offset + 8)
            return int(bits & 0xF).bit_length()
        offset += 8 + _aligned(size, 8)
    return 0


def _place(address: int, segments: tuple[_Segment, ...]) -> int:
    """Return the offset in the file of an address."""
    for one in segments:
        if one.kind == _LOAD and one.address <= address < one.address + one.size:
            return address - one.address + one.offset
    raise NotReadable("an address outside every segment")


def _read(stream: _Kept, offset: int, size: int) -> bytes:
    if size > _MOST_BYTES or offset > _MOST_FILE_BYTES:
        raise NotReadable("a table that is too large or too far away")
    data = stream.read_at(offset, size)
    if len(data) != size:
        raise NotReadable("a table is truncated")
    return data


def _aligned(size: int, to: int) -> int:
    return (size + to - 1) // to * to
