"""Files in a second place without new bytes, on the disks that this machine has or can make."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava_pack.placing import can_share, place, share

DATA = os.urandom(3_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows copies")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    return path


def made(kind: str, place: Path) -> Iterator[Path]:
    """Mount a small disk of a kind from an image, where this machine can do that."""
    image, mount = place / f"{kind}.image", place / kind
    mount.mkdir()
    steps = (
        ["truncate", "-s", "128M", image],
        [f"mkfs.{kind}", image],
        ["mount", "-o", "loop", image, mount],
    )
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, check=False)
        except FileNotFoundError:
            pytest.skip(f"no {step[0]} here")
        if done.returncode != 0:
            pytest.skip("no loop mounts here")
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    yield from made("btrfs", tmp_path)


@pytest.fixture
def fat(tmp_path: Path) -> Iterator[Path]:
    yield from made("vfat", tmp_path)


@POSIX
def test_a_link_is_read_only_under_both_names_and_survives_the_first(source: Path) -> None:
    source.chmod(0o755)
    copy = source.with_name("copy")
    placed = place(source, copy)
    if placed.way == "cloned":
        pytest.skip("this disk clones")
    assert (placed.way, placed.size_bytes, placed.sha256) == ("linked", len(DATA), DIGEST)
    assert copy.samefile(source)
    assert copy.stat().st_mode & 0o777 == 0o555
    source.unlink()
    assert copy.read_bytes() == DATA


def test_a_clone_can_be_changed_alone(btrfs: Path) -> None:
    source, copy = btrfs / "source", btrfs / "copy"
    source.write_bytes(DATA)
    subprocess.run(["sync", "-f", btrfs], check=True)
    free = os.statvfs(btrfs).f_bfree
    assert can_share(btrfs, btrfs)
    placed = place(source, copy)
    assert (placed.way, placed.sha256) == ("cloned", DIGEST)
    subprocess.run(["sync", "-f", btrfs], check=True)
    assert (free - os.statvfs(btrfs).f_bfree) * os.statvfs(btrfs).f_frsize < len(DATA) // 2
    copy.write_bytes(b"changed")
    assert source.read_bytes() == DATA


def test_a_disk_without_links_and_another_disk_are_copied_to(fat: Path, source: Path) -> None:
    inside = fat / "inside"
    inside.write_bytes(DATA)
    for one in (inside, source):
        assert share(one, fat / "copy") is None
        assert not (fat / "copy").exists()
        assert place(one, fat / "copy").way == "copied"
        assert (fat / "copy").read_bytes() == DATA
        (fat / "copy").unlink()
    assert not can_share(fat, fat)
    assert not can_share(source.parent, fat)
    assert [path.name for path in fat.iterdir()] == ["inside"]


def test_what_is_there_already_is_not_touched(source: Path) -> None:
    there = source.with_name("there")
    there.write_text("somebody's")
    with pytest.raises(FileExistsError):
        place(source, there)
    assert there.read_text() == "somebody's"


def test_a_folder_that_is_not_there_shares_nothing(tmp_path: Path) -> None:
    assert not can_share(tmp_path, tmp_path / "none")
