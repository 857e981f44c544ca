"""How bytes come into the store: linked, cloned, moved or copied, and what is foreseen of it."""

import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pack.format.errors import InstallError, IntegrityError
from llava_pack.format.progress import Silent
from llava_pack.target import disk, smoke
from llava_pack.target.planning import plan
from tests.support.bundle import BASE_PYTHON, CHECKOUT
from tests.support.site import Site, complete
from tests.target.namespaces import AS_A_USER, NAMELESS, allowed

WEIGHTS = "model/tiny-llava/model-00001-of-00001.safetensors"
MARKED = "the weights of a small model, to be found again " * 1000


as_a_user = pytest.mark.skipif(
    os.geteuid() == 0 and not allowed(*AS_A_USER), reason="no user namespaces here"
)


def wrap():
    """Return what makes root somebody else, whose files are those that it wrote."""
    return AS_A_USER if os.geteuid() == 0 else ()


@pytest.fixture
def site(tmp_path):
    tmp_path.chmod(0o755)
    site = Site(tmp_path)
    site.write("bundle", weights=MARKED.encode())
    for path in (site.medium("bundle"), *site.medium("bundle").rglob("*")):
        path.chmod(path.stat().st_mode & ~0o022)
    return site


def receipt(prefix):
    return json.loads((prefix / "models/tiny/current/receipt.json").read_text())


def install(host, site, *arguments, wrapped=()):
    host.prefix = site.prefix
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.argv[:2] = ['llava-pack'];"
        "from llava_pack.target.main import main; sys.exit(main())"
    )
    root = Path(__file__).parents[2]
    command = [
        *wrapped,
        sys.executable,
        "-I",
        "-B",
        "-c",
        code,
        str(root),
    ]
    command += ["install", "--bundle", str(site.medium("bundle")), "--expect", site.ids["bundle"]]
    done = subprocess.run(
        [*command, "--prefix", str(site.prefix), *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@as_a_user
def test_what_only_this_account_can_write_is_linked_and_not_copied(host, site):
    install(host, site, wrapped=wrap())
    assert set(receipt(site.prefix)["placed"]) == {"linked"}
    weights = site.medium("bundle") / WEIGHTS
    assert weights.samefile(site.prefix / "models/tiny/current" / WEIGHTS)
    assert stat.S_IMODE(weights.stat().st_mode) == 0o444
    complete(site.prefix)


@as_a_user
@pytest.mark.parametrize("place", ["file", "folder", "bundle"])
def test_what_others_could_write_is_copied(host, site, place):
    weights = site.medium("bundle") / WEIGHTS
    writable = {"file": weights, "folder": weights.parent, "bundle": site.medium("bundle")}[place]
    writable.chmod(writable.stat().st_mode | 0o020)
    install(host, site, wrapped=wrap())
    placed = receipt(site.prefix)["placed"]
    assert placed["copied"] >= weights.stat().st_size
    assert not weights.samefile(site.prefix / "models/tiny/current" / WEIGHTS)


@as_a_user
def test_what_somebody_has_open_for_writing_is_copied(host, site):
    weights = site.medium("bundle") / WEIGHTS
    with weights.open("r+b"):
        install(host, site, wrapped=wrap())
    assert receipt(site.prefix)["placed"]["copied"] == weights.stat().st_size
    assert stat.S_IMODE(weights.stat().st_mode) == 0o644, "the medium is as it was"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_links_nothing(site):
    site.install("bundle")
    assert set(receipt(site.prefix)["placed"]) == {"copied"}


def test_a_bad_file_is_not_linked_and_the_medium_is_as_it_was(site, monkeypatch):
    monkeypatch.setattr(disk, "only_ours", lambda *_: True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "fchown", lambda *_: None)
    weights = site.medium("bundle") / WEIGHTS
    weights.write_bytes(b"?" * len(MARKED))
    before = weights.stat()
    with pytest.raises(IntegrityError, match=f"{WEIGHTS}: changed"):
        site.install("bundle")
    after = weights.stat()
    assert (after.st_mode, after.st_nlink) == (before.st_mode, 1)


def test_consuming_moves_the_large_files_and_can_be_done_again(site):
    weights = site.medium("bundle") / WEIGHTS
    inode = weights.stat().st_ino
    planned = plan(site.request("bundle", consume=True), Silent())
    assert site.install("bundle", consume=True).generation == 1
    assert not weights.exists()
    kept = site.prefix / "models/tiny/current" / WEIGHTS
    assert (kept.stat().st_ino, kept.stat().st_uid) == (inode, os.geteuid())
    assert kept.read_text() == MARKED
    assert (site.medium("bundle") / "install.sh").exists()
    placed = receipt(site.prefix)["placed"]
    assert placed == {way: size for way, size in planned.placing.items() if size}
    assert site.install("bundle", consume=True).unchanged
    complete(site.prefix)


def test_a_consumed_bundle_that_fails_is_installed_by_the_same_command(site, monkeypatch):
    def failing(*_):
        raise InstallError("no answer")

    monkeypatch.setattr(smoke, "ask", failing)
    with pytest.raises(InstallError, match="no answer; no generation is active"):
        site.install("bundle", consume=True)
    assert not (site.medium("bundle") / WEIGHTS).exists()
    monkeypatch.undo()
    assert site.install("bundle", consume=True).generation == 1
    complete(site.prefix)


def test_what_is_consumed_while_somebody_writes_it_is_copied(site):
    weights = site.medium("bundle") / WEIGHTS
    with weights.open("r+b"):
        site.install("bundle", consume=True)
    assert weights.read_text() == MARKED
    assert receipt(site.prefix)["placed"]["copied"] >= len(MARKED)


def test_a_dry_run_foresees_every_byte(site):
    before = plan(site.request("bundle"), Silent()).facts()
    site.install("bundle")
    objects = [path for path in (site.prefix / "store/sha256").rglob("*") if path.is_file()]
    assert before["copy_bytes"] == sum(path.stat().st_size for path in objects)
    after = plan(site.request("bundle"), Silent()).facts()
    assert (after["copy_bytes"], after["stored_bytes"]) == (0, before["copy_bytes"])


def test_what_a_file_system_clones_is_hashed_as_it_was_cloned(site, monkeypatch):
    """As the kernel does it, without a file system that can: FICLONE takes all bytes at once."""

    def clones(spoil):
        def ioctl(destination, request, source):
            assert request == 0x40049409  # Source: linux/fs.h, FICLONE
            with open(source, "rb", closefd=False) as held:
                os.pwrite(destination, spoil(held.read()), 0)

        monkeypatch.setattr(fcntl, "ioctl", ioctl)

    clones(lambda data: data.replace(b"to be found again", b"to be found never"))
    with pytest.raises(IntegrityError, match=f"{WEIGHTS}: changed"):
        site.install("bundle")
    clones(lambda data: data)
    site.install("bundle")
    assert receipt(site.prefix)["placed"]["cloned"] == len(MARKED)
    complete(site.prefix)


def test_a_clone_takes_no_room_and_is_what_was_hashed(site, tmp_path, monkeypatch):
    """On a real btrfs, mounted from an image, where this machine can do that."""
    image, mount = tmp_path / "image", tmp_path / "btrfs"
    mount.mkdir()
    steps = (
        ["truncate", "-s", "128M", image],
        ["mkfs.btrfs", "-q", image],
        ["mount", "-o", "loop", image, mount],
    )
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, check=False)
        except FileNotFoundError:
            pytest.skip("no mkfs.btrfs here")
        if done.returncode != 0:
            pytest.skip("no loop mounts here")
    try:
        site = Site(mount)
        site.write("bundle", weights=os.urandom(5_000_000))
        subprocess.run(["sync", "-f", mount], check=True)
        used = os.statvfs(mount).f_bfree
        site.install("bundle")
        placed = receipt(site.prefix)["placed"]
        assert placed["cloned"] >= 5_000_000
        subprocess.run(["sync", "-f", mount], check=True)
        taken = (used - os.statvfs(mount).f_bfree) * os.statvfs(mount).f_frsize
        assert taken < 5_000_000
        complete(site.prefix)
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.skipif(not allowed(*NAMELESS), reason="no user namespaces here")
def test_a_number_without_a_name_or_a_home_installs_where_it_is_told(host, medium):
    one = medium("old")
    path = f"PATH={Path(BASE_PYTHON).parent}:{os.environ['PATH']}"
    done = host.install_sh(one, wrap=(*NAMELESS, path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("/bin/llava-pack serve\n")
    script = host.prefix / "../install.sh"
    shutil.copy(CHECKOUT / "installers/install.sh", script)
    command = [*NAMELESS, path, "sh", str(script), "--bundle", str(one.root), "--expect", one.id]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "HOME is not set: nothing says where to install" in done.stderr
