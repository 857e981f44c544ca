"""What wheels need of a system, by every ELF file in them, whatever their tags say.

A file counts when it can be loaded: when every library that it names is in one of the wheels or on
every Linux. A plug-in for hardware of another maker names libraries that are in neither; what it
would need then does not matter.
"""

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from llava_pack.format.errors import IntegrityError
from llava_pack.lock.elf import MAGIC, NotReadable, read_needs

SCANNER = 1
"""Raised when the rules of `scan_wheel` change: earlier results are not used then."""
_CXX = "libstdc++.so.6"
_TEXTS = """
py pyi pyc pyx pxd txt md rst json yaml yml toml csv xml cfg ini in cmake pc typed pem
h hpp cuh hip c cc cpp cu js ts css html map svg png jpg woff woff2 ttf wav mp4 a bc gz zip npy npz
"""
_NO_ELF = frozenset(f".{suffix}" for suffix in _TEXTS.split())
# Source: auditwheel's manylinux policy (lib_whitelist), and what the NVIDIA driver brings.
_ON_EVERY_LINUX = """
libc.so.6 libm.so.6 libdl.so.2 librt.so.1 libpthread.so.0 libutil.so.1 libnsl.so.1 libresolv.so.2
libanl.so.1 libcrypt.so.1 libgcc_s.so.1 libstdc++.so.6 libatomic.so.1 libz.so.1 libexpat.so.1
libX11.so.6 libXext.so.6 libXrender.so.1 libICE.so.6 libSM.so.6 libGL.so.1 libgobject-2.0.so.0
libgthread-2.0.so.0 libglib-2.0.so.0 ld-linux-x86-64.so.2 ld-linux-aarch64.so.1 libcuda.so.1
libnvidia-ml.so.1
"""
_SYSTEM = frozenset(_ON_EVERY_LINUX.split())
# Flags as the kernel names them. Source: the x86-64 psABI, micro-architecture levels.
_V2 = ("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3")
_V3 = (*_V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave")
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
_ISA_FLAGS: tuple[tuple[str, ...], ...] = ((), (), _V2, _V3, _V4)


@dataclass(frozen=True, kw_only=True)
class FileNeeds:
    """What one ELF file of a wheel needs.

    Attributes:
        name: the last part of its path, as others name it.
        machine: empty where it is of no known machine.
        libraries: what it names.
        glibc: newest version of the C library's symbols, `2.28`; empty where it uses none.
        glibcxx: the same of the C++ library's, `3.4.21`.
        isa: x86-64 level that its linker marked as needed, 0 for none.
    """

    name: str
    size_bytes: int
    machine: str = ""
    libraries: tuple[str, ...] = ()
    glibc: str = ""
    glibcxx: str = ""
    isa: int = 0


@dataclass(frozen=True, kw_only=True)
class ScannedWheel:
    """Every ELF file of a wheel, and the version of the rules that it was read by."""

    scanner: int = 0
    files: tuple[FileNeeds, ...]


@dataclass(frozen=True, kw_only=True)
class ProvedFloors:
    """What a set of wheels needs together.

    Attributes:
        files: how many ELF files can be loaded there.
        glibc: None where no file uses the C library.
        glibcxx: of the system's C++ library; None where none is used.
        cpu_flags: as the kernel names them.
        by: the wheel that sets each of `glibc` and `glibcxx`.
    """

    files: int
    glibc: str | None
    glibcxx: str | None
    cpu_flags: tuple[str, ...]
    by: Mapping[str, str]


def scan_wheel(path: Path) -> ScannedWheel:
    """Return every ELF file of a wheel and what it needs.

    Raises:
        IntegrityError: the wheel is damaged.
    """
    found = []
    try:
        with zipfile.ZipFile(path) as wheel:
            for member in wheel.infolist():
                if member.is_dir() or PurePosixPath(member.filename).suffix in _NO_ELF:
                    continue
                with wheel.open(member) as stream:
                    if stream.read(4) == MAGIC:
                        found.append(_file_needs(member, cast("BinaryIO", stream)))
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise IntegrityError(f"is not a complete wheel: {error}", subject=path.name) from error
    return ScannedWheel(scanner=SCANNER, files=tuple(found))


def proved_floors(wheels: Mapping[str, ScannedWheel], arch: str) -> ProvedFloors:
    """Return what the wheels need together on `arch`, by those of their files that can be loaded.

    Args:
        wheels: by the name that `by` shall say.
        arch: `x86_64` or `aarch64`.
    """
    files = [
        (wheel, file)
        for wheel, scanned in wheels.items()
        for file in scanned.files
        if file.machine == arch
    ]
    loadable = _loadable([file for _, file in files])
    counted = [(wheel, file) for wheel, file in files if file in loadable]
    own_cxx = {wheel for wheel, file in files if file.name == _CXX}
    glibc = max(((_version(file.glibc), wheel) for wheel, file in counted), default=((), ""))
    glibcxx = max(
        ((_version(file.glibcxx), wheel) for wheel, file in counted if wheel not in own_cxx),
        default=((), ""),
    )
    isa = max((file.isa for _, file in counted), default=0)
    shown = {"glibc": glibc, "glibcxx": glibcxx}
    return ProvedFloors(
        files=len(counted),
        glibc=_text(glibc[0]),
        glibcxx=_text(glibcxx[0]),
        cpu_flags=_ISA_FLAGS[isa] if arch == "x86_64" else (),
        by={name: wheel for name, (found, wheel) in shown.items() if found},
    )


def _file_needs(member: zipfile.ZipInfo, stream: BinaryIO) -> FileNeeds:
    """Return what a file needs; one of another word size or byte order is of no known machine."""
    name = PurePosixPath(member.filename).name
    try:
        needs = read_needs(stream)
    except NotReadable:
        return FileNeeds(name=name, size_bytes=member.file_size)
    newest: dict[str, tuple[int, ...]] = {}
    for (library, family), found in needs.versions.items():
        if family == "GLIBC" or library == _CXX:
            newest[family] = max(newest.get(family, ()), found)
    return FileNeeds(
        name=name,
        size_bytes=member.file_size,
        machine=needs.machine or "",
        libraries=needs.libraries,
        glibc=_text(newest.get("GLIBC", ())) or "",
        glibcxx=_text(newest.get("GLIBCXX", ())) or "",
        isa=needs.isa,
    )


def _loadable(files: Iterable[FileNeeds]) -> set[FileNeeds]:
    """Return the files all of whose libraries are there, theirs included."""
    left = set(files)
    while True:
        there = _SYSTEM | {file.name for file in left}
        kept = {file for file in left if there.issuperset(file.libraries)}
        if kept == left:
            return left
        left = kept


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")) if text else ()


def _text(found: tuple[int, ...]) -> str | None:
    return ".".join(map(str, found)) or None
