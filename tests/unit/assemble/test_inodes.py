import io
import tarfile
import zipfile

from llava_pack.assemble.inodes import archive_inodes, installed_inodes, wheel_inodes
from llava_pack.format.inodes import guessed_inodes
from llava_pack.format.manifest import FileEntry

NAMES = ["a/__init__.py", "a/b/c.py", "a/b/d.so", "a-1.dist-info/RECORD", "a/b/"]


def wheel(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in NAMES:
            archive.writestr(name, b"")
    return path


def test_a_wheel_counts_its_files_and_its_folders_twice(tmp_path):
    """4 files, 3 folders in the cache of uv and again in the environment, 4 that uv adds."""
    assert wheel_inodes(wheel(tmp_path / "a.whl")) == 4 + 2 * 3 + 0 + 4


def test_an_interpreter_counts_what_its_archive_holds(tmp_path):
    path = tmp_path / "cpython.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("python/bin/python3", "python/lib/os.py", "python/lib"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert archive_inodes(path) == len({"python", "python/bin", "python/lib"}) + 2


def test_every_file_goes_into_the_store_beside_what_is_unpacked(tmp_path):
    (tmp_path / "wheels").mkdir()
    wheel(tmp_path / "wheels/a.whl")
    paths = ["wheels/a.whl", *(f"model/m/{number}" for number in range(500))]
    entries = [
        FileEntry(path=path, size_bytes=0, mode=0o644, sha256="", origin={}) for path in paths
    ]
    assert installed_inodes(tmp_path, entries, {}) == 501 + 256 + 40 + 14
    absent = FileEntry(
        path="wheels/a.whl", size_bytes=0, mode=0o644, sha256="", origin={"kind": "index"}
    )
    held = tmp_path / "wheels/a.whl"
    assert installed_inodes(tmp_path / "x", [absent], {"a.whl": held}) == 1 + 1 + 40 + 14


def test_a_guess_goes_by_bytes_and_ends_somewhere():
    assert guessed_inodes([0, 7_000_000]) == 10 + 1_010
    assert guessed_inodes([3_000_000_000]) == 15_010
