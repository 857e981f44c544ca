"""Lists and manifests made to hurt: refused, and with little memory."""

import json
import tracemalloc
from contextlib import contextmanager

import pytest

from llava_pack.cli.verification import examine
from llava_pack.format.errors import IntegrityError
from llava_pack.format.manifest import (
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    parse_manifest,
    render_manifest,
)
from llava_pack.format.progress import Silent
from llava_pack.format.sums import MAX_FILES, MAX_SUMS_BYTES, parse_sums, render_sums
from llava_pack.target.inventory import read_listing
from tests.support.bundle import BundleSimulator, change, seal

ZERO = "0" * 64
MEMORY_BYTES = 100_000_000


@contextmanager
def little_memory():
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_BYTES, f"{peak} bytes at the peak"


def repeated(piece, size_bytes, before=b"", after=b""):
    return before + piece * ((size_bytes - len(before) - len(after)) // len(piece)) + after


@pytest.mark.parametrize(
    "data",
    [
        b"".join(f"{ZERO}  a/{number:06}\n".encode() for number in range(50_000)),
        repeated(b"\n", MAX_SUMS_BYTES),
        repeated(b"x\n", MAX_SUMS_BYTES),
        repeated(b"\xff", MAX_SUMS_BYTES - 1) + b"\n",
        repeated(b"a", MAX_SUMS_BYTES * 4),
    ],
    ids=["fifty thousand files", "empty lines", "short lines", "not text", "too long"],
)
def test_a_list_that_is_too_long_is_refused_with_little_memory(data):
    with little_memory(), pytest.raises(IntegrityError):
        parse_sums(data)


def test_the_longest_list_is_read_with_little_memory():
    folders = "/".join(["d" * 10] * 14)
    paths = [f"{number:05}/{folders}/{'n' * 30}" for number in range(MAX_FILES)]
    with little_memory():
        assert len(parse_sums(render_sums(dict.fromkeys(paths, ZERO)))) == MAX_FILES


@pytest.mark.parametrize(
    "data",
    [
        repeated(b"[],", MAX_MANIFEST_BYTES, b"[", b"0]"),
        repeated(b'{"a":{}},', MAX_MANIFEST_BYTES, b"[", b"0]"),
        repeated(b'"ab",', MAX_MANIFEST_BYTES, b"[", b"0]"),
        repeated(b"1e1,", MAX_MANIFEST_BYTES, b"[", b"0]"),
        repeated(b"[", MAX_MANIFEST_BYTES),
        repeated(b"9", MAX_MANIFEST_BYTES),
        b'{"format":1,"files":' + repeated(b"{},", 1_000_000, b"[", b"{}]") + b"}",
        b" " * (MAX_MANIFEST_BYTES + 1),
    ],
    ids=["lists", "objects", "texts", "numbers", "nested", "digits", "a million files", "blank"],
)
def test_a_manifest_of_too_much_is_refused_with_little_memory(data):
    with little_memory(), pytest.raises(IntegrityError):
        parse_manifest(data)


def manifest_with(**fields):
    value = json.loads(render_manifest(simulated()))
    value["files"].append({**value["files"][0], **fields})
    return json.dumps(value).encode()


def simulated():
    simulator = BundleSimulator()
    return simulator.manifest(simulator.payload())


def test_the_longest_manifest_is_read_with_little_memory():
    value = json.loads(render_manifest(simulated()))
    one = value["files"][0]
    missing = range(MAX_FILES - len(value["files"]))
    value["files"] += [{**one, "path": f"model/x/{number:05}"} for number in missing]
    data = json.dumps(value).encode()
    with little_memory():
        assert len(parse_manifest(data).files) == MAX_FILES


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "model/../../x",
        "C:/windows/x",
        "model\\x",
        "model/con",
        "model/LPT1.txt",
        "model/aux.safetensors",
        "model/x.",
        "model/x ",
        "model/.hidden",
        "model/-rf",
        "model//x",
        "model/x:stream",
        "model/\u202ex",
        "model/x\x00",
        "a/" * 16 + "x",
        "MANIFEST.json",
        "SHA256SUMS",
        "",
    ],
)
def test_a_name_that_some_place_cannot_hold_is_refused(path):
    with pytest.raises(IntegrityError):
        parse_manifest(manifest_with(path=path))


@pytest.mark.parametrize("path", ["MODEL/Tower/config.json", "model/tower", "install.sh"])
def test_names_that_collide_are_refused(path):
    with pytest.raises(IntegrityError):
        parse_manifest(manifest_with(path=path))


@pytest.mark.parametrize("size_bytes", [MAX_FILE_BYTES + 1, 2**53, 2**80, -1, 1e300, "5", None])
def test_absurd_sizes_are_refused(size_bytes):
    with pytest.raises(IntegrityError):
        parse_manifest(manifest_with(path="model/x", size_bytes=size_bytes))


def test_a_file_of_absurd_size_is_not_read(tmp_path):
    root = tmp_path / "bundle"
    BundleSimulator().write(root)
    weights = root / "model/tower/model.safetensors"
    with weights.open("r+b") as stream:
        stream.truncate(2**43)
    found = examine(read_listing(root, expect=None), progress=Silent())
    assert [(one.path, one.problem) for one in found.defects] == [
        ("model/tower/model.safetensors", "size")
    ]
    change(root / "MANIFEST.json", lambda data: b"[]")
    found = examine(read_listing(root, expect=None), progress=Silent())
    assert {(one.path, one.problem) for one in found.defects} == {
        ("MANIFEST.json", "changed"),
        ("model/tower/model.safetensors", "size"),
    }


def test_more_strangers_than_anybody_wants_to_read_about(tmp_path):
    root = tmp_path / "bundle"
    BundleSimulator().write(root)
    for number in range(2_100):
        (root / f"model/tower/{number}").touch()
    found = examine(read_listing(root, expect=None), progress=Silent())
    assert len(found.defects) == 2_001
    assert {one.problem for one in found.defects} == {"extra", "too-many"}
    assert found.facts()["copy_again"] == []


def test_what_has_to_be_copied_again_is_said(tmp_path):
    root = tmp_path / "bundle"
    BundleSimulator().write(root)
    (root / "licenses/LICENSE").unlink()
    (root / "stranger").touch()
    change(root / "model/tower/model.safetensors", lambda data: data + b"!")
    facts = examine(read_listing(root, expect=None), progress=Silent()).facts()
    assert facts["copy_again"] == ["licenses/LICENSE", "model/tower/model.safetensors"]
    assert seal(root) != facts["bundle_id"]


def test_a_folder_that_cannot_be_read_is_a_defect(tmp_path, monkeypatch):
    import os

    root = tmp_path / "bundle"
    BundleSimulator().write(root)
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("licenses"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr("llava_pack.target.inventory.os.scandir", refuse)
    found = examine(read_listing(root, expect=None), progress=Silent())
    assert ("licenses", "unreadable") in {(one.path, one.problem) for one in found.defects}
