"""Recovery volumes as they are made: how they are cut, the same bytes every time, what they cover."""

import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llava_pack.crossing import parity
from llava_pack.crossing.parity import covered_files, par2_program, protect
from llava_pack.crossing.volumes import plan_volumes, volumes_bytes
from llava_pack.format.errors import PackError, SpaceError, UsageError
from llava_pack.format.progress import Silent
from tests.support.small_disk import disk_of

MOST_FILES = 10_000
FORMAT_BLOCKS = 32_768
FILES = {
    "install.sh": b"#!/bin/sh\n" * 50,
    "model/m/a.safetensors": bytes(range(256)) * 4000,
    "model/m/empty.json": b"",
    "wheels/b.whl": b"wheel" * 20_000,
    "wheels/c.whl": b"c" * 17,
}


@pytest.fixture
def medium(tmp_path):
    root = tmp_path / "medium"
    for path, data in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    (root / "PART.json").write_text("not protected")
    return root


def volumes(root):
    return {path.name: path.read_bytes() for path in (root / "parity").iterdir()}


@given(st.integers(0, 4 << 40), st.integers(1, 100))
@example(0, 1)
@example(1, 100)
@example(4 << 40, 100)
def test_a_plan_keeps_within_the_format_and_gives_what_is_asked(total_bytes, percent):
    plan = plan_volumes(total_bytes, percent)
    assert plan.block_bytes % 4 == 0
    assert -(-total_bytes // plan.block_bytes) + MOST_FILES <= FORMAT_BLOCKS
    assert 1 <= plan.recovery_blocks <= FORMAT_BLOCKS
    assert 100 * plan.size_bytes >= total_bytes * percent
    assert 100 * (plan.size_bytes - plan.block_bytes) <= total_bytes * percent
    assert 1 <= plan.volumes <= plan.recovery_blocks


def test_media_of_every_usual_size_take_the_same_work_for_a_byte():
    blocks = {plan_volumes(size << 30, 5).recovery_blocks for size in (1, 4, 25, 60)}
    assert blocks <= {50, 51}


@pytest.mark.parametrize("percent", [0, 101, -5])
def test_another_percentage_is_a_mistake(percent, medium):
    with pytest.raises(UsageError, match="1 % to 100 %"):
        protect(medium, FILES, percent, Silent())


def test_the_same_files_give_the_same_bytes_in_any_order(medium, tmp_path):
    names = protect(medium, FILES, 5, Silent())
    first = volumes(medium)
    assert names == tuple(f"parity/{name}" for name in sorted(first))
    other = shutil.copytree(medium, tmp_path / "elsewhere" / "medium")
    assert protect(other, reversed(FILES), 5, Silent()) == names
    assert volumes(other) == first


def test_what_they_cover_is_what_was_given(medium):
    assert covered_files(medium) == {}
    protect(medium, FILES, 5, Silent())
    assert covered_files(medium) == {path: len(data) for path, data in FILES.items() if data}


def test_a_part_of_a_folder_can_be_covered(medium):
    some = ["wheels/b.whl", "model/m/a.safetensors"]
    protect(medium, some, 5, Silent())
    assert set(covered_files(medium)) == set(some)


@pytest.mark.parametrize("damage", ["first", "zeroed", "cut", "index gone"])
def test_what_they_cover_survives_damage(medium, damage):
    protect(medium, FILES, 20, Silent())
    index, volume = sorted((medium / "parity").iterdir())
    data = volume.read_bytes()
    index.unlink()
    if damage == "first":
        volume.write_bytes(b"\0" + data[1:])
    if damage == "zeroed":
        volume.write_bytes(bytes(5000) + data[5000:])
    if damage == "cut":
        volume.write_bytes(data[:-100])
    assert set(covered_files(medium)) == {path for path, data in FILES.items() if data}


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda more: b"PAR2\0PKT" + more))
@example(b"PAR2\0PKT" + bytes(8))
@example(b"PAR2\0PKT" + b"\xff" * 56)
def test_any_bytes_are_no_description(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("any")
    (root / "parity").mkdir()
    (root / "parity/any.par2").write_bytes(data)
    assert covered_files(root) == {}


@pytest.mark.parametrize(("count", "size_bytes"), [(1, 1), (600, 6_000), (40, 100_000)])
@pytest.mark.parametrize("percent", [1, 5, 100])
def test_how_much_they_take_is_known_beforehand(tmp_path, count, size_bytes, percent):
    paths = [f"wheels/{number:03}-{'n' * (number % 50)}.whl" for number in range(count)]
    (tmp_path / "wheels").mkdir()
    for path in paths:
        (tmp_path / path).write_bytes(path.encode() * (size_bytes // len(path)) + b"!")
    protect(tmp_path, paths, percent, Silent())
    total_bytes = sum((tmp_path / path).stat().st_size for path in paths)
    names_bytes = sum(map(len, paths))
    taken_bytes = sum(map(len, volumes(tmp_path).values()))
    most_bytes = volumes_bytes(count, names_bytes, total_bytes, percent)
    assert 0.9 * (most_bytes - 8192) <= taken_bytes <= most_bytes


def test_old_volumes_are_replaced_and_an_interrupted_try_goes(medium):
    protect(medium, FILES, 50, Silent())
    (medium / "parity.partial").mkdir()
    (medium / "parity.partial/parity.par2").write_text("half")
    protect(medium, FILES, 5, Silent())
    assert not (medium / "parity.partial").exists()
    assert sum(map(len, volumes(medium).values())) < 200_000


def test_nothing_but_empty_files_needs_none(medium):
    assert protect(medium, ["model/m/empty.json"], 5, Silent()) == ()
    assert not (medium / "parity").exists()


def test_a_full_disk_is_said_before_anything_is_written(medium, monkeypatch):
    monkeypatch.setattr(parity.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 9))
    with pytest.raises(SpaceError, match="room for recovery data"):
        protect(medium, FILES, 5, Silent())
    assert not (medium / "parity.partial").exists()


def test_a_disk_that_is_full_after_all_leaves_no_volumes(medium):
    with disk_of(50_000), pytest.raises(PackError, match="par2 exits with"):
        protect(medium, FILES, 100, Silent())
    assert not (medium / "parity").exists()


def test_the_program_is_the_installed_one_whatever_the_path_has(monkeypatch, tmp_path):
    (tmp_path / "par2").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "par2").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    program = par2_program()
    assert program.is_file()
    assert program.parent != tmp_path
    monkeypatch.setattr(parity, "PACKAGE", "no-such-package")
    with pytest.raises(PackError, match="not installed"):
        par2_program()
