"""The lines that `carry` prints for the server, typed there as they stand."""

import re
import shlex
import shutil
import subprocess

import pytest

from llava_pack.assemble.welcome import welcome
from llava_pack.cli import main
from llava_pack.format.manifest import parse_manifest
from llava_pack.format.part import PART_NAME
from tests.support.bundle import CHECKOUT
from tests.support.carried import carry, type_lines

SHARD = "model/tiny-llava/model-00001-of-00001.safetensors"


@pytest.fixture
def usb(tmp_path):
    return tmp_path / "usb"


def have(*arguments):
    script = CHECKOUT / "installers/install.sh"
    done = subprocess.run(
        ["sh", str(script), "--have", "--short", *map(str, arguments)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_one_medium_that_holds_all_is_the_bundle(medium, host, usb, capsys):
    whole = medium("whole", standalone=True)
    lines = carry(capsys, whole.root, usb)
    assert not (usb / "tiny" / PART_NAME).exists()
    done = type_lines(lines, usb, host.prefix)
    assert done.returncode == 0, done.stderr
    assert host.current() == 1
    carry(capsys, whole.root, usb, "--parity", "5%")
    assert list((usb / "tiny/parity").iterdir())
    assert not (usb / "tiny" / PART_NAME).exists()
    assert main(["verify", str(usb / "tiny")]) == 0


def test_what_was_one_medium_of_several_and_holds_all_now_says_so_no_longer(medium, usb, capsys):
    whole = medium("whole", weights=bytes(3_000_000), chunk_bytes=65_536)
    carry(capsys, whole.root, usb, "--media", 1_000_000)
    next(usb.glob("tiny-2of*")).rename(usb / "tiny")
    assert (usb / "tiny" / PART_NAME).exists()
    carry(capsys, whole.root, usb, "--replace")
    assert not (usb / "tiny" / PART_NAME).exists()
    assert main(["verify", str(usb / "tiny")]) == 0


def test_a_new_server_that_was_asked_gets_the_lines_of_a_first_contact(
    medium, host, usb, tmp_path, capsys
):
    whole = medium("whole", standalone=True)
    (tmp_path / "have").write_text(have("--prefix", host.prefix))
    lines = carry(capsys, whole.root, usb, "--have", tmp_path / "have")
    assert lines[0].startswith("B=/path/to/tiny-update; ")
    done = type_lines(lines, usb, host.prefix)
    assert done.returncode == 0, done.stderr
    assert host.current() == 1


def copy_without(path, bundle, there):
    """Copy a bundle, one file left out; return where."""
    shutil.copytree(bundle, there)
    (there / path).unlink()
    return there


def test_an_update_names_the_program_of_the_installation(medium, host, usb, tmp_path, capsys):
    assert host.install_sh(medium("old", standalone=True)).returncode == 0
    new = medium("new", standalone=True, release=1_800_000_000)
    (tmp_path / "have").write_text(have("--prefix", host.prefix))
    (line,) = carry(capsys, new.root, usb, "--have", tmp_path / "have")
    program, *words = shlex.split(line.replace("/path/to/", f"{usb}/"))
    assert program == "/opt/llava-pack/bin/llava-pack"
    assert main([*words, "--prefix", str(host.prefix)]) == 0
    assert host.current() == 2


def test_where_a_part_of_the_bundle_lies_it_is_named_beside_the_update(
    medium, host, usb, tmp_path, capsys
):
    """What START-HERE.txt says of a folder without install.sh, typed."""
    whole = medium("whole", standalone=True)
    there = copy_without(SHARD, whole.root, tmp_path / "there")
    (tmp_path / "have").write_text(have("--prefix", host.prefix, "--bundle", there))
    carry(capsys, whole.root, usb, "--have", tmp_path / "have")
    assert not (usb / "tiny-update/install.sh").exists()
    manifest = parse_manifest((whole.root / "MANIFEST.json").read_bytes())
    english = welcome(manifest).decode().partition("----")[0]
    assert "Is no install.sh in this folder?" in english
    lines = re.search(r"(?:^  .*\n)+", english, re.MULTILINE)[0].splitlines()
    typed = [line.replace("/path/to/this/folder", str(there)) for line in lines]
    more = f"--bundle {usb}/tiny-update"
    done = type_lines([one.replace("ID", whole.id) for one in typed], usb, host.prefix, more)
    assert done.returncode == 0, done.stderr
    assert host.current() == 1


def test_where_the_part_lacks_the_installer_it_is_named_beside_the_update(
    medium, host, usb, tmp_path, capsys
):
    whole = medium("whole", standalone=True)
    there = copy_without("install.sh", whole.root, tmp_path / "there")
    (tmp_path / "have").write_text(have("--prefix", host.prefix, "--bundle", there))
    lines = carry(capsys, whole.root, usb, "--have", tmp_path / "have")
    assert main(["carry", str(whole.root), "--to", str(usb), "--have", str(tmp_path / "have")]) == 0
    assert "add --bundle and its folder" in " ".join(capsys.readouterr().err.split())
    done = type_lines(lines, usb, host.prefix, f"--bundle {there}")
    assert done.returncode == 0, done.stderr
    assert host.current() == 1


def test_a_medium_that_cannot_start_says_that_the_first_one_does(medium, usb, capsys):
    whole = medium("whole", weights=bytes(3_000_000), chunk_bytes=65_536, standalone=True)
    arguments = ["carry", str(whole.root), "--to", str(usb), "--media", "1000000"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "tiny-1of" in said.out
    assert said.out.rstrip().endswith("--collect")
    starting = {path.parent.name for path in usb.glob("*/install.sh")}
    assert len(starting) == 1
    assert "with medium 1; then the last line with each of the others" in said.err


def test_nothing_is_typed_where_nothing_is_missing(medium, usb, capsys):
    whole = medium("whole")
    assert carry(capsys, whole.root, usb, "--base", whole.root) == []
