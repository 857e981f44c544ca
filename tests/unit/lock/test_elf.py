"""The ELF reader against binutils, and against damaged files."""

import io
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from llava_pack.format.errors import IntegrityError
from llava_pack.lock.elf import NotReadable, read_needs
from llava_pack.lock.wheel_needs import FileNeeds, ScannedWheel, proved_floors, scan_wheel

SITE = Path(sysconfig.get_paths()["platlib"])
FOUND = [sys.executable, *SITE.glob("pydantic_core/*.so"), *SITE.glob("tokenizers/*.so")]
FILES = [Path(one).resolve() for one in FOUND]
FILES += [path for path in (Path("/bin/ls"), Path("/usr/bin/openssl")) if path.exists()]


def said_by_readelf(path):
    """Return needed libraries and the newest version by library and family."""
    command = ["readelf", "--wide", "--dynamic", "--version-info", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    libraries = tuple(re.findall(r"\(NEEDED\).*\[(.*)\]", text))
    versions, library = {}, None
    for line in text.partition(".gnu.version_r")[2].splitlines():
        if match := re.search(r"File: (\S+)", line):
            library = match[1]
        match = re.search(r"Name: (GLIBC|GLIBCXX)_([\d.]+)\s+Flags: (\S+)", line)
        if match and match[3] != "WEAK":
            version = tuple(int(part) for part in match[2].split("."))
            key = library, match[1]
            versions[key] = max(versions.get(key, ()), version)
    return libraries, versions


@pytest.mark.skipif(shutil.which("readelf") is None, reason="binutils are not on this machine")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_reads_what_readelf_reads(path):
    with path.open("rb") as stream:
        needs = read_needs(stream)
    assert (needs.libraries, needs.versions) == said_by_readelf(path)


def test_every_cut_off_file_is_refused_and_none_hangs():
    data = Path("/bin/ls").read_bytes()
    for size in range(0, min(len(data), 6000), 97):
        with pytest.raises(NotReadable):
            read_needs(io.BytesIO(data[:size]))


def test_flipped_bytes_raise_nothing_else():
    data = bytearray(Path("/bin/ls").read_bytes())
    for place in range(16, 900, 7):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        try:
            read_needs(io.BytesIO(bytes(damaged)))
        except NotReadable:
            continue


def file(name="a.so", **fields):
    return FileNeeds(name=name, size_bytes=1, machine="x86_64", **fields)


def together(*wheels, arch="x86_64"):
    named = {f"w{index}": ScannedWheel(files=files) for index, files in enumerate(wheels)}
    return proved_floors(named, arch)


def test_the_newest_need_of_all_wheels_is_the_floor():
    floors = together([file(glibc="2.14")], [file(name="b.so", glibc="2.9", glibcxx="3.4.22")])
    assert (floors.glibc, floors.glibcxx) == ("2.14", "3.4.22")
    assert floors.by == {"glibc": "w0", "glibcxx": "w1"}


def test_a_plug_in_whose_libraries_are_nowhere_does_not_count():
    plug_in = file(libraries=("libsycl.so.8", "libc.so.6"), glibc="2.38")
    wrapper = file(name="c.so", libraries=("a.so",), glibc="2.37")
    assert together([plug_in, wrapper, file(name="d.so", glibc="2.17")]).glibc == "2.17"


def test_it_counts_where_another_wheel_brings_the_library():
    plug_in = file(libraries=("libcudart.so.12", "libc.so.6"), glibc="2.30")
    assert together([plug_in], [file(name="libcudart.so.12", glibc="2.17")]).glibc == "2.30"


def test_a_cxx_library_of_its_own_frees_a_wheel_from_the_systems():
    floors = together([file(glibcxx="3.4.30"), file(name="libstdc++.so.6", glibc="2.17")])
    assert floors.glibcxx is None


def test_files_of_another_architecture_do_not_count():
    assert together([file(glibc="2.38")], arch="aarch64").glibc is None


def test_an_x86_64_level_becomes_the_kernels_flags():
    assert {"sse4_2", "popcnt"} <= set(together([file(isa=2)]).cpu_flags)
    assert "avx2" in together([file(isa=3)]).cpu_flags
    assert together([file(isa=1)]).cpu_flags == ()


def test_a_wheel_is_read_inside_its_archive(tmp_path):
    wheel = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write("/bin/ls", "a/tool.so")
        archive.writestr("a/text.so", "no ELF file")
        archive.writestr("a/short.bin", b"\x7fELF\x02\x01")
        archive.writestr("a/module.py", b"\x7fELF")
    found = {one.name: one for one in scan_wheel(wheel).files}
    assert set(found) == {"tool.so", "short.bin"}
    assert found["tool.so"].glibc.startswith("2.")
    assert found["short.bin"].machine == ""


def test_a_damaged_wheel_is_4(tmp_path):
    wheel = tmp_path / "a-1-py3-none-any.whl"
    wheel.write_bytes(b"PK no archive")
    with pytest.raises(IntegrityError):
        scan_wheel(wheel)
