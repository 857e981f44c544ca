"""A prefix that was moved or copied: it finds its place, and everything in it works there."""

import json
import os
import shutil
import subprocess

import pytest

from llava_pack.format.progress import Silent
from llava_pack.installation.installed import installed
from llava_pack.installation.integrity import read_again
from llava_pack.target import generations, receipt, relocation
from tests.support.python_archive import write_archive
from tests.target.conftest import Host, Served

TOLD = {"receipt.txt", "receipt.json", "RECORD"}
"""What was, told; as in the tracebacks of what was compiled."""
WEIGHTS = "model/tiny-llava/model-00001-of-00001.safetensors"
CONFIG = "model/tiny-llava/config.json"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("python"))


def moved(prefix, where):
    prefix.rename(where)


def copied(prefix, where):
    subprocess.run(["cp", "-a", prefix, where], check=True)
    shutil.rmtree(prefix)


@pytest.fixture(params=[moved, copied])
def take(request, host, tmp_path_factory):
    """Take the prefix to a new name, beside it or on another disk, as `mv` does."""
    other = tmp_path_factory.mktemp("other disk") if request.param is copied else None

    def to(name):
        where = (other or host.prefix.parent) / name
        request.param(host.prefix, where)
        host.prefix = where

    return to


def started(host, *arguments, **options):
    program = host.prefix / "bin/llava-pack"
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, **options
    )


def whole(host, count):
    """Assert that every generation names this place and no other, and is as it was verified."""
    items = generations.listing(host.prefix)
    assert len(items) == count
    for item in items:
        assert receipt.broken(item.root) == ()
        config = json.loads((item.root / CONFIG).read_text())
        assert config["mm_vision_tower"] == f"{item.root}/model/tower"
    found = installed(host.prefix)
    assert read_again(found, Silent()) == ()
    assert found.venv_python.exists()


def test_it_is_put_in_order_once_and_says_so(host, two, take):
    old = host.prefix
    take("new place")
    first = started(host, "x")
    assert (first.returncode, first.stdout) == (0, f"{host.prefix} x\n"), first.stderr
    assert f"this installation was moved here from {old}" in first.stderr
    whole(host, 2)
    again = started(host, "x")
    assert (again.returncode, again.stderr) == (0, "")
    for path in host.prefix.rglob("*"):
        if path.is_symlink():
            assert str(old) not in str(path.readlink()), path
        elif path.is_file() and path.name not in TOLD and path.suffix != ".pyc":
            assert str(old).encode() not in path.read_bytes(), path


def test_every_change_works_from_the_new_place(host, two, medium, take, cli):
    take("new place")
    done = host.install_sh(medium("third", weights=b"more weights", release=1_900_000_000))
    assert done.returncode == 0, done.stderr
    whole(host, 3)
    take("third place")
    assert cli("revert", "--prefix", host.prefix).code == 0
    assert host.current() == 2
    whole(host, 3)
    take("fourth place")
    assert json.loads(cli("gc", "--prefix", host.prefix, "--keep", 1, "--json").out)["generations"]
    whole(host, 1)
    take("fifth place")
    assert cli("uninstall", "--prefix", host.prefix).code == 0
    assert not host.prefix.exists()


def test_a_python_that_was_unpacked_beside_runs_from_the_new_place(host, medium, archive, take):
    assert host.install_sh(medium(archive=archive)).returncode == 0
    take("new place")
    first = started(host, "x", env={})
    assert (first.returncode, first.stdout) == (0, f"{host.prefix} x\n"), first.stderr
    python = host.prefix / "models/tiny/current/venv/bin/python"
    said = subprocess.run(
        [python, "-I", "-c", "import sys; print(sys.base_prefix); print(sys.prefix)"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert all(os.path.realpath(line).startswith(str(host.prefix)) for line in said)


def test_a_copy_that_lost_a_byte_is_not_sealed(host, two, tmp_path):
    copied(host.prefix, tmp_path / "new")
    host.prefix = tmp_path / "new"
    bad = host.prefix / "models/tiny/generations/2" / WEIGHTS
    bad.chmod(0o644)
    bad.write_bytes(b"newer w8ights")
    first = started(host, "x")
    assert "! tiny generation 2 is not as it was verified" in first.stderr
    assert [bool(receipt.broken(item.root)) for item in generations.listing(host.prefix)] == [
        False,
        True,
    ]
    assert (started(host, "x").stderr, host.run("x")) == ("", f"{host.prefix} x")


def test_a_file_that_nobody_promised_is_not_sealed(host, two, tmp_path):
    copied(host.prefix, tmp_path / "new")
    host.prefix = tmp_path / "new"
    (host.prefix / "models/tiny/generations/2/model/extra.py").write_text("")
    assert "! tiny generation 2 is not as it was verified" in started(host, "x").stderr


def test_it_is_found_through_links_to_its_program(host, two, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/second").symlink_to("../prefix/bin/llava-pack")
    (tmp_path / "first").symlink_to(tmp_path / "bin/second")
    (tmp_path / "other name").symlink_to(host.prefix)
    for name in ("first", "bin/second", "other name/bin/llava-pack"):
        done = subprocess.run(
            [tmp_path / name, "x"], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        assert (done.stdout, done.stderr) == (f"{host.prefix} x\n", "")
    done = subprocess.run(
        ["sh", "llava-pack", "x"], capture_output=True, text=True, check=True,
        cwd=host.prefix / "bin",
    )  # fmt: skip
    assert done.stdout == f"{host.prefix} x\n"


def test_a_way_over_a_link_is_no_move(medium, tmp_path):
    """What was installed by one name and is started by another names the place itself."""
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "alias").symlink_to(real)
    host = Host(tmp_path / "alias/prefix")
    assert host.install_sh(medium()).returncode == 0
    done = started(Host(real / "prefix"), "x")
    assert (done.stdout, done.stderr) == (f"{real}/prefix x\n", "")
    config = json.loads((host.prefix / "models/tiny/current" / CONFIG).read_text())
    assert config["mm_vision_tower"] == f"{real}/prefix/models/tiny/generations/1/model/tower"
    served = Served(host)
    try:
        assert host.install_sh(medium("new", release=1_800_000_000)).returncode == 0
        assert served.until(lambda: served.answer() == 1_800_000_000), "it was not restarted"
    finally:
        served.stop()


def test_a_server_that_runs_from_the_old_place_is_named(host, two, tmp_path):
    served = Served(host, "tiny")
    try:
        host.prefix.rename(tmp_path / "new")
        said = started(Host(tmp_path / "new"), "x").stderr
        assert f"! process {served.process.pid} still serves from {host.prefix}" in said
    finally:
        served.process.kill()
        served.process.wait()


def test_killed_midway_it_begins_anew(host, two, take, monkeypatch):
    take("new place")
    seal = receipt.seal

    def killed(root):
        if root.name == "2":
            raise KeyboardInterrupt
        seal(root)

    monkeypatch.setattr(receipt, "seal", killed)
    with pytest.raises(KeyboardInterrupt):
        relocation.settle(host.prefix, Silent())
    monkeypatch.undo()
    assert "was moved here" in started(host, "x").stderr
    whole(host, 2)


def test_what_an_earlier_version_installed_is_put_in_order_by_the_next_install(
    host, two, medium, take
):
    (host.prefix / "place").unlink()
    take("new place")
    done = host.install_sh(medium("third", weights=b"more weights", release=1_900_000_000))
    assert done.returncode == 0, done.stderr
    whole(host, 3)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another account")
def test_another_account_is_told_who_has_to_start_it(host, two, tmp_path):
    tmp_path.chmod(0o755)
    host.prefix.rename(tmp_path / "new")
    host.prefix = tmp_path / "new"
    done = started(host, "x", user=12345, group=12345, extra_groups=[])
    assert done.returncode == 3
    assert "hint: run it as the account that owns the prefix" in done.stderr
