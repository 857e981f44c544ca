"""Files rebuilt by the real par2, from media as they come: damaged, read-only, failing, hostile."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pack.crossing.parity import par2_program, protect
from llava_pack.format.errors import InstallError, PreflightError, SpaceError
from llava_pack.format.progress import Silent
from llava_pack.target import par2, parity
from llava_pack.target.parity import WantedFile, rebuild
from tests.support.bundle import change
from tests.support.par2_packets import hostile_volume
from tests.target.namespaces import allowed

FILES = {
    "install.sh": b"#!/bin/sh\n" * 50,
    "model/m/a.safetensors": bytes(n * n % 251 for n in range(1_000_000)),
    "model/m/empty.json": b"",
    "wheels/b.whl": hashlib.sha256(b"b").digest() * 3000,
}
WEIGHTS = "model/m/a.safetensors"
WHEEL = "wheels/b.whl"
SECRET = "a file that no bundle has"


def wanted(*paths, files=FILES):
    return [
        WantedFile(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path in paths
        for data in [files[path]]
    ]


@pytest.fixture
def medium(tmp_path):
    """Give a medium with its recovery data, in folders that only its owner enters."""
    root = tmp_path / "medium"
    for path, data in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    protect(root, FILES, 20, Silent())
    (root / "PART.json").write_text("not protected")
    return root


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def try_it(medium, scratch):
    def go(*paths, **options):
        return rebuild(par2_program(), medium, wanted(*paths), scratch, Silent(), **options)

    return go


def contents(rebuilt):
    return {path: place.read_bytes() for path, place in rebuilt.files.items()}


def tree(root):
    return {
        path.relative_to(root).as_posix(): (path.lstat().st_mtime_ns, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file()
    }


def turned(data):
    return data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]


DAMAGES = {
    "a flipped bit": lambda path: change(path, turned),
    "cut": lambda path: change(path, lambda data: data[: len(data) - 30_000]),
    "longer": lambda path: change(path, lambda data: data + b"more"),
    "shifted": lambda path: change(path, lambda data: b"x" + data),
    "zeroed": lambda path: change(path, lambda data: bytes(40_000) + data[40_000:]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_rebuilt_and_the_medium_only_read(medium, try_it, damage):
    DAMAGES[damage](medium / WEIGHTS)
    before = tree(medium)
    assert contents(try_it(WEIGHTS)) == {WEIGHTS: FILES[WEIGHTS]}
    assert tree(medium) == before


@pytest.mark.parametrize("path", [path for path in FILES if path != WEIGHTS])
def test_a_missing_file_is_rebuilt(medium, try_it, path):
    (medium / path).unlink()
    assert contents(try_it(path)) == {path: FILES[path]}


@pytest.mark.parametrize("path", [path for path in FILES if path != WEIGHTS])
def test_what_another_file_stands_in_for_is_rebuilt(medium, try_it, path):
    (medium / path).write_bytes(b"" if FILES[path] else b"not empty")
    assert contents(try_it(path)) == {path: FILES[path]}


def test_several_at_once_and_what_was_good_all_along(medium, try_it):
    change(medium / WEIGHTS, turned)
    (medium / "install.sh").unlink()
    (medium / "model/m/empty.json").unlink()
    paths = (WEIGHTS, "install.sh", "model/m/empty.json")
    assert contents(try_it(*paths)) == {path: FILES[path] for path in paths}


def test_too_much_damage_says_how_much_is_lacking(medium, try_it):
    (medium / WEIGHTS).unlink()
    rebuilt = try_it(WEIGHTS, WHEEL)
    assert rebuilt.files == {}
    assert 0.75 * len(FILES[WEIGHTS]) < rebuilt.lacking_bytes < len(FILES[WEIGHTS])


def test_a_good_file_may_be_elsewhere(medium, try_it, tmp_path):
    (medium / WEIGHTS).rename(tmp_path / "stored")
    change(medium / WHEEL, turned)
    rebuilt = try_it(WHEEL, elsewhere={WEIGHTS: tmp_path / "stored"})
    assert contents(rebuilt) == {WHEEL: FILES[WHEEL]}


def test_without_volumes_nothing_is_rebuilt_but_empty_files(medium, try_it):
    shutil.rmtree(medium / "parity")
    change(medium / WHEEL, turned)
    rebuilt = try_it(WHEEL, "model/m/empty.json")
    assert contents(rebuilt) == {"model/m/empty.json": b""}
    assert rebuilt.lacking_bytes == 0


@pytest.mark.parametrize("damage", ["index gone", "index garbage", "volume bitten", "volume cut"])
def test_damaged_volumes_are_used_as_far_as_they_go(medium, try_it, damage):
    index, volume = sorted((medium / "parity").iterdir())
    if damage == "index gone":
        index.unlink()
    if damage == "index garbage":
        index.write_bytes(os.urandom(5000))
    if damage == "volume bitten":
        change(volume, lambda data: data[:50_000] + b"bite" + data[50_004:])
    if damage == "volume cut":
        change(volume, lambda data: data[: len(data) // 2])
    change(medium / WEIGHTS, turned)
    assert contents(try_it(WEIGHTS)) == {WEIGHTS: FILES[WEIGHTS]}


def test_a_digest_that_is_not_the_promised_one_is_not_handed_on(medium, scratch):
    change(medium / WHEEL, turned)
    other = [WantedFile(path=WHEEL, size_bytes=len(FILES[WHEEL]), sha256="0" * 64)]
    assert rebuild(par2_program(), medium, other, scratch, Silent()).files == {}


def test_a_full_disk_is_foreseen(medium, try_it, monkeypatch, scratch):
    monkeypatch.setattr(parity.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 9))
    with pytest.raises(SpaceError, match="to rebuild files"):
        try_it(WEIGHTS)
    assert list(scratch.iterdir()) == []


# What is hostile.

NAMES = ["../../escaped", "/tmp/llava-pack-escaped", "..", "a/../../../escaped", "-B", "x\ny", "*"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leaves_the_folder_leads_nowhere(medium, scratch, tmp_path, name):
    data = b"evil"
    shutil.rmtree(medium / "parity")
    (medium / "parity").mkdir()
    (medium / "parity/parity.par2").write_bytes(hostile_volume({name: data}))
    before = tree(tmp_path)
    rebuilt = rebuild(par2_program(), medium, wanted(WHEEL), scratch, Silent())
    place = scratch / "files"
    made = {path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == data}
    assert all(path.is_relative_to(place) for path in made)
    assert made or name == "..", f"par2 made nothing of it: {rebuilt.said}"
    assert before.items() <= tree(tmp_path).items()
    assert not Path("/tmp/llava-pack-escaped").exists()


def test_links_and_fifos_of_a_medium_are_not_followed(medium, try_it, tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    (medium / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(medium / "fifo")
    os.mkfifo(medium / "parity/parity.vol99+1.par2")
    (medium / "parity/more.par2").symlink_to(tmp_path / "secret")
    (medium / WHEEL).unlink()
    (medium / WHEEL).symlink_to(tmp_path / "secret")
    assert contents(try_it(WHEEL)) == {WHEEL: FILES[WHEEL]}
    assert (tmp_path / "secret").read_text() == SECRET


def test_a_right_file_behind_a_link_is_not_taken(medium, scratch, tmp_path):
    """A program that was taken over could lead root to a file of the store, to move it away."""
    evil = tmp_path / "evil"
    stored = tmp_path / "stored"
    stored.mkdir()
    (stored / "b.whl").write_bytes(FILES[WHEEL])
    (medium / WHEEL).unlink()
    evil.write_text(f'#!/bin/sh\nrmdir wheels\nln -s "{stored}" wheels\n')
    evil.chmod(0o755)
    rebuilt = rebuild(evil, medium, wanted(WHEEL), scratch, Silent())
    assert (scratch / "files/wheels").is_symlink()
    assert rebuilt.files == {}


def told_by(tmp_path, medium, scratch, script):
    """Return what a program says of itself where par2 would be."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return rebuild(program, medium, wanted(WHEEL), scratch, Silent()).said


def test_it_has_no_rights_that_it_does_not_need(medium, scratch, tmp_path):
    said = told_by(
        tmp_path, medium, scratch,
        "id -u; id -G; grep NoNewPrivs /proc/self/status; ulimit -v; ulimit -f; ulimit -c;"
        "env | sort; (echo > /dev/tcp/127.0.0.1/1) 2>/dev/null; cat /proc/net/dev | tail -n +3",
    )  # fmt: skip
    lines = said.splitlines()
    if os.geteuid() == 0:
        assert lines[:2] == ["65534", "65534"]
    assert "NoNewPrivs:\t1" in lines
    assert str((2 << 30) // 1024) in lines
    assert str(-(-len(FILES[WHEEL]) // 512)) in lines or str(len(FILES[WHEEL]) // 512) in lines
    assert not any(line.startswith(("HOME=", "PATH=/home", "SSH_", "LD_")) for line in lines)
    if allowed("unshare", "-Un"):
        seen = {line.partition(":")[0].strip() for line in lines}
        outward = {one.name for one in Path("/sys/class/net").iterdir()} - {"lo"}
        assert "lo" in seen
        assert not seen & outward


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives its rights up")
def test_roots_par2_reads_a_medium_in_a_folder_of_roots_alone(medium, try_it, tmp_path):
    assert tmp_path.stat().st_mode & 0o077 == 0
    change(medium / WEIGHTS, turned)
    (rebuilt,) = try_it(WEIGHTS).files.values()
    assert rebuilt.stat().st_uid == 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives its rights up")
def test_what_nobody_may_read_is_said(medium, try_it):
    (medium / WEIGHTS).chmod(0o600)
    with pytest.raises(PreflightError, match="nobody") as refused:
        try_it(WHEEL)
    assert refused.value.subject == str(medium / WEIGHTS)


def test_a_program_that_hangs_is_ended(medium, scratch, tmp_path, monkeypatch):
    monkeypatch.setattr(par2, "_FIRST_S", 1)
    with pytest.raises(InstallError, match="did not finish within 1 s"):
        told_by(tmp_path, medium, scratch, "exec sleep 100")


def test_one_that_is_none_cannot_be_started(medium, scratch, tmp_path):
    (tmp_path / "nothing").write_bytes(b"\x7fELF")
    (tmp_path / "nothing").chmod(0o755)
    with pytest.raises(InstallError, match="cannot be started"):
        rebuild(tmp_path / "nothing", medium, wanted(WHEEL), scratch, Silent())


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs a loop device")
def test_a_medium_that_fails_while_it_is_read_gives_what_it_can(medium, scratch, tmp_path):
    """A file system whose end is gone: reading there is an I/O error, as of a bad sector."""
    image, mount = tmp_path / "image", tmp_path / "mount"
    weights = hashlib.sha512(b"w").digest() * 50_000
    files = {**FILES, WEIGHTS: weights}
    (medium / WEIGHTS).write_bytes(weights)
    protect(medium, files, 60, Silent())
    (medium / WEIGHTS).rename(tmp_path / "weights")
    (tmp_path / "commands").write_text(f"cd model/m\nwrite {tmp_path}/weights a.safetensors\n")
    image.write_bytes(bytes(32 << 20))
    mount.mkdir()
    make = ["mke2fs", "-q", "-t", "ext2", "-b", "4096", "-d", str(medium), str(image)]
    add = ["debugfs", "-w", "-f", str(tmp_path / "commands"), str(image)]
    find = ["debugfs", "-R", f"bmap {WEIGHTS} {len(weights) // 4096 - 8}", str(image)]
    try:
        subprocess.run(make, check=True, capture_output=True)
        subprocess.run(add, check=True, capture_output=True)
        found = subprocess.run(find, check=True, capture_output=True, text=True)
        subprocess.run(["mount", "-o", "loop,ro", str(image), str(mount)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop device: {error}")
    try:
        os.truncate(image, int(found.stdout) * 4096)
        with pytest.raises(OSError, match="Input/output"):
            (mount / WEIGHTS).read_bytes()
        rebuilt = rebuild(par2_program(), mount, wanted(WEIGHTS, files=files), scratch, Silent())
        assert contents(rebuilt) == {WEIGHTS: weights}, rebuilt.said
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_volume_is_a_plain_file_with_a_name_of_ours(medium):
    (medium / "parity/-rf.par2").write_bytes(b"")
    (medium / "parity/a b.par2").write_bytes(b"")
    (medium / "parity/note.txt").write_bytes(b"")
    assert [path.name for path in parity.volumes(medium)] == [
        "parity.par2", "parity.vol00+54.par2",
    ]  # fmt: skip
