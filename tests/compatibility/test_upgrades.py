"""Installations and bundles of different versions: whichever is older, one upgrades the other.

A kept bundle is named after the month whose code wrote it and is in it: its install.sh, its
installer and the part of its wheel that a running server is handed over by.
"""

import subprocess
import sys

import pytest

from llava_pack.cli import main
from llava_pack.format.progress import Silent
from llava_pack.target.installer import InstallRequest, install
from tests.support.carried import carry, type_lines
from tests.support.kept import FOLDER, unpack
from tests.support.wheels import write_wheel
from tests.target.conftest import Medium, Served

KEPT = sorted(path.name.removesuffix(".tar.xz") for path in FOLDER.glob("*.tar.xz"))


@pytest.fixture(params=KEPT)
def kept(request, tmp_path):
    root = tmp_path / "media" / request.param
    return Medium(root, unpack(request.param, root))


@pytest.fixture
def serving(host):
    """Start servers of the host, and end them with the test."""
    servers = []

    def start():
        servers.append(Served(host))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def test_there_is_a_bundle_of_each_format_that_was_given_out():
    assert "bundle-2026-11" in KEPT


def test_a_new_bundle_upgrades_an_old_installation_and_what_it_serves(host, medium, kept, serving):
    done = host.install_sh(kept, script=kept.root / "install.sh")
    assert done.returncode == 0, done.stderr
    server = serving()
    assert server.answer() == 1_700_000_000
    done = host.install_sh(medium("new", release=1_800_000_000))
    assert done.returncode == 0, done.stderr
    assert (host.current(), server.answer()) == (2, 1_800_000_000)


def test_the_installer_of_an_old_installation_takes_a_new_bundle(host, medium, kept, serving):
    """Upgrades run nothing from the medium: the code that is installed reads the new bundle."""
    assert host.install_sh(kept, script=kept.root / "install.sh").returncode == 0
    server = serving()
    new = medium("new", release=1_800_000_000)
    command = [sys.executable, "-I", "-S", "-B", str(kept.root / "installer/llava_target")]
    command += ["install", "--bundle", str(new.root), "--expect", new.id]
    done = subprocess.run(
        [*command, "--prefix", str(host.prefix)],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (host.current(), server.answer()) == (2, 1_800_000_000)


def test_an_old_installation_refuses_a_bundle_without_wheels_and_says_why(
    host, medium, kept, tmp_path
):
    assert host.install_sh(kept, script=kept.root / "install.sh").returncode == 0
    lean = medium("lean", release=1_800_000_000, left_out=(write_wheel(tmp_path, "a", "1"),))
    command = [sys.executable, "-I", "-S", "-B", str(kept.root / "installer/llava_target")]
    command += ["install", "--bundle", str(lean.root), "--expect", lean.id]
    done = subprocess.run(
        [*command, "--prefix", str(host.prefix)],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 4
    assert "bundle format 2, expected at most 1" in done.stderr
    assert "use a llava-pack that reads bundle format 2" in done.stderr
    assert host.current() == 1


def test_a_new_installation_takes_an_old_bundle_for_another_model(host, medium, kept, serving):
    """A fleet's media are older than its installations: the bundle of last month goes in too."""
    assert host.install_sh(medium("new", recipe="new", release=1_800_000_000)).returncode == 0
    server = serving()
    install(InstallRequest(bundle=kept.root, expect=kept.id, prefix=host.prefix), Silent())
    assert host.current() == 1
    assert server.answer() == 1_800_000_000, "another model is none of its business"


def test_an_old_version_is_gone_back_to_with_what_is_served(host, medium, kept, serving, cli):
    assert host.install_sh(kept, script=kept.root / "install.sh").returncode == 0
    assert host.install_sh(medium("new", release=1_800_000_000)).returncode == 0
    server = serving()
    assert server.answer() == 1_800_000_000
    ended = cli("revert", "--prefix", host.prefix)
    assert ended.code == 0, ended.err
    assert (host.current(), server.answer()) == (1, 1_700_000_000)


def test_a_medium_that_holds_an_old_bundle_is_taken_by_its_own_installer(
    host, kept, tmp_path, capsys
):
    lines = carry(capsys, kept.root, tmp_path / "usb")
    done = type_lines(lines, tmp_path / "usb", host.prefix)
    assert done.returncode == 0, done.stderr
    assert host.current() == 1


@pytest.mark.parametrize("options", [("--parity", "5%"), ("--base",), ("--media", "450000")])
def test_what_the_installer_of_an_old_bundle_does_not_know_is_not_written(
    kept, tmp_path, capsys, options
):
    base = tmp_path / "base"
    base.write_text((kept.root / "SHA256SUMS").read_text().splitlines()[-1] + "\n")
    more = [*options, str(base)] if options == ("--base",) else options
    assert main(["carry", str(kept.root), "--to", str(tmp_path / "usb"), *more]) == 2
    assert "build it again with this version" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "usb").exists()


@pytest.mark.parametrize("asked", ["--have", "--base"])
def test_an_update_of_an_old_installation_starts_the_installer_that_travels(
    host, medium, kept, tmp_path, capsys, asked
):
    assert host.install_sh(kept, script=kept.root / "install.sh").returncode == 0
    new = medium("new", release=1_800_000_000)
    known = kept.root
    if asked == "--have":
        known = tmp_path / "have"
        command = ["sh", str(new.root / "install.sh"), "--have", "--prefix", str(host.prefix)]
        known.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    lines = carry(capsys, new.root, tmp_path / "usb", asked, known)
    assert not (tmp_path / "usb/tiny-update/model/tower/model.safetensors").exists()
    done = type_lines(lines, tmp_path / "usb", host.prefix)
    assert done.returncode == 0, done.stderr
    assert host.current() == 2
