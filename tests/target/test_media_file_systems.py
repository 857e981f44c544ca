"""Bundles on the file systems that media have: written there by `carry`, verified, installed."""

import json

import pytest

from llava_pack.cli import main
from tests.support import file_systems
from tests.support.bundle import BundleSimulator
from tests.target.conftest import Medium

LONG = "wheels/nvidia_cublas_cu12-12.8.4.1-py3-none-manylinux_2_27_x86_64.manylinux2014_x86_64.whl"
"""Longer than what Joliet has room for."""
SIZE_BYTES = 64 << 20
CHUNK = 1 << 20

pytestmark = [
    pytest.mark.skipif(not file_systems.possible(), reason="this account may not mount"),
]


@pytest.fixture
def whole(tmp_path):
    root = tmp_path / "laptop/tiny"
    more = {LONG: b"no wheel, but a long name"}
    ids = BundleSimulator(
        weights=bytes(5_000_000), chunk_bytes=CHUNK, standalone=True, extra=more
    ).write(root)
    return Medium(root, ids)


def test_the_programs_are_there():
    assert file_systems.missing() == []


@pytest.mark.parametrize("kind", file_systems.KINDS)
def test_a_bundle_is_carried_on_it_and_collected_from_it_read_only(whole, host, tmp_path, kind):
    image = file_systems.made(tmp_path / f"{kind}.img", kind, SIZE_BYTES)
    with file_systems.mounted(image, kind) as disk:
        assert main(["carry", str(whole.root), "--to", str(disk), "--media", "2500000"]) == 0
        again = main(["carry", str(whole.root), "--to", str(disk), "--media", "2500000"])
        assert again == 0
    with file_systems.mounted(image, kind, read_only=True) as disk:
        folders = sorted(disk.glob("tiny-*"))
        assert len(folders) > 2
        for folder in folders:
            assert main(["verify", str(folder), "--expect", whole.id]) == 0
            done = host.install_sh(Medium(folder, whole.id), "--collect")
            assert done.returncode == 0, done.stderr
    assert host.current() == 1


def test_names_that_joliet_cut_are_recognised(whole, host, tmp_path, capsys):
    image = file_systems.joliet(tmp_path / "dvd.iso", whole.root)
    with file_systems.mounted(image, "joliet") as disk:
        assert not (disk / LONG).exists()
        assert max(len(path.name) for path in disk.rglob("*")) <= 64
        assert main(["verify", str(disk), "--expect", whole.id, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["defects"] == []
        done = host.install_sh(Medium(disk, whole.id))
        assert done.returncode == 0, done.stderr


def test_another_file_of_that_size_under_a_cut_name_is_named(whole, host, tmp_path):
    (whole.root / LONG).write_bytes(b"no wheel, but a long nama")
    image = file_systems.joliet(tmp_path / "dvd.iso", whole.root)
    with file_systems.mounted(image, "joliet") as disk:
        assert main(["verify", str(disk)]) == 4
        done = host.install_sh(Medium(disk, whole.id))
        assert done.returncode == 4
        assert f"{LONG}: changed" in done.stderr
