"""A prefix on a file system that cannot hold an installation, on real ones: FAT32 and exFAT."""

import fcntl
import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from llava_pack.format.errors import PreflightError
from llava_pack.format.progress import Silent
from llava_pack.target import installer, preflight
from tests.support.site import Site

SIZE_BYTES = 64 << 20
FIX = "choose a --prefix on ext4, xfs or another file system of Linux"


def _loop(image):
    done = subprocess.run(
        ["losetup", "-f", "--show", image], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _mounts(kind, image, device, place):
    """Return the ways to mount such an image here: the kernel's own, then those through FUSE."""
    if kind == "vfat":
        options = "uid=0,gid=0,umask=022"
        return [
            ["mount", "-t", "vfat", "-o", options, device, place],
            ["fusefat", "-o", "rw+", image, place],
        ]
    return [
        ["mount", "-t", "exfat", "-o", "uid=0,gid=0,umask=022", device, place],
        ["mount.exfat-fuse", "-o", "uid=0,gid=0,umask=022", device, place],
    ]


@pytest.fixture(params=["vfat", "exfat"])
def disk(request, tmp_path_factory):
    """Mount a file system of the kind; where this machine has no way to, say which was tried."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    image, place = str(folder / "image"), folder / "disk"
    place.mkdir()
    with Path(image).open("wb") as file:
        file.truncate(SIZE_BYTES)
    if shutil.which(f"mkfs.{kind}", path="/usr/sbin:/sbin:/usr/bin") is None:
        pytest.skip(f"no mkfs.{kind} here")
    wide = ["-F", "32"] if kind == "vfat" else []
    subprocess.run([f"mkfs.{kind}", *wide, image], check=True, capture_output=True)
    device = _loop(image)
    try:
        ways = _mounts(kind, image, device, str(place))
        if not any(_mounted(way) for way in ways):
            pytest.skip(f"no way to mount {kind}: tried {', '.join(way[0] for way in ways)}")
        yield place
        subprocess.run(["umount", place], check=True)
    finally:
        if device:
            subprocess.run(["losetup", "-d", device], check=False)


def _mounted(way):
    with suppress(FileNotFoundError):
        if "" not in way:
            return subprocess.run(way, capture_output=True, check=False).returncode == 0
    return False


def test_install_sh_refuses_it_before_python_is_unpacked(disk, host, medium):
    host.prefix = disk / "prefix"
    done = host.install_sh(medium(standalone=True), "--json")
    assert done.returncode == 3, done.stderr
    assert "ext4" in done.stderr
    told = json.loads(done.stdout)
    assert told["exit_code"] == 3
    assert "no symbolic links or no permissions" in told["message"]
    assert list(disk.iterdir()) == []


def test_the_installer_names_what_it_lacks(disk, tmp_path):
    found = {one.name: one for one in preflight._file_system(disk)}["file system"]
    assert (found.level, found.fix, int(found.exit_code)) == ("fail", FIX, 3)
    for lack in ("no symbolic links", "no permissions"):
        assert lack in found.value
    assert list(disk.iterdir()) == []
    site = Site(tmp_path)
    site.write("bundle")
    request = installer.InstallRequest(
        bundle=site.medium("bundle"), expect=site.ids["bundle"], prefix=disk / "prefix"
    )
    with pytest.raises(PreflightError, match="no symbolic links") as caught:
        installer.install(request, Silent())
    assert FIX in caught.value.hint
    assert list(disk.iterdir()) == []


def test_a_disk_without_locks_is_named(tmp_path, monkeypatch):
    """As some network file systems have none; no such one can be had on one machine."""

    def refuse(_file, _operation):
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr(fcntl, "flock", refuse)
    [found] = preflight._file_system(tmp_path)
    assert (found.level, found.value) == ("fail", f"no locks under {tmp_path}")


def test_a_disk_of_linux_has_all(tmp_path):
    [found] = preflight._file_system(tmp_path)
    assert (found.level, found.value) == ("ok", "all of these")
    assert list(tmp_path.iterdir()) == []
