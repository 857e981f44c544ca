"""`llava-pack carry` as a person uses it: what it refuses, resumes, and tells."""

import errno
import json
import os
import random
import re
from pathlib import Path

import pytest

from llava_pack.cli import main
from tests.support.bundle import BundleSimulator, change

SHARD = "model/tiny-llava/model-00001-of-00001.safetensors"
CHUNK = 65_536


@pytest.fixture
def bundle(tmp_path):
    root = tmp_path / "laptop/tiny"
    weights = random.Random(2).randbytes(3_000_000)
    return root, BundleSimulator(weights=weights, chunk_bytes=CHUNK).write(root)


@pytest.fixture
def carry(bundle, tmp_path, capsys):
    """Run `carry --json` and return its exit code and what it told."""

    def run(*options, to=tmp_path / "media"):
        capsys.readouterr()
        code = main(["carry", str(bundle[0]), "--to", str(to), "--json", *map(str, options)])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.stat()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_whole_bundle_shares_its_blocks_with_the_one_on_the_laptop(bundle, carry, tmp_path):
    code, told = carry()
    assert code == 0
    (medium,) = told["media"]
    assert Path(medium["folder"]) == tmp_path / "media/tiny"
    assert medium["copied_bytes"] == 0
    written = files(tmp_path / "media/tiny")
    assert written.keys() == files(bundle[0]).keys()
    assert told["install"][-1].startswith("sh install.sh --bundle")


def test_run_again_it_writes_nothing(carry, tmp_path):
    carry("--media", 1_000_000)
    before = {name: facts.st_mtime_ns for name, facts in files(tmp_path / "media").items()}
    code, told = carry("--media", 1_000_000)
    assert code == 0
    assert {one["copied_bytes"] for one in told["media"]} == {0}
    assert {n: facts.st_mtime_ns for n, facts in files(tmp_path / "media").items()} == before


def test_what_went_bad_on_a_medium_is_written_anew(carry, tmp_path):
    carry("--media", 1_000_000)
    piece = next((tmp_path / "media").rglob("*.piece-*"))
    good = piece.read_bytes()
    piece.write_bytes(good[:-1])
    (piece.parent / f".{piece.name}.01234567.new").write_bytes(b"left by a run that was killed")
    code, _ = carry("--media", 1_000_000)
    assert code == 0
    assert piece.read_bytes() == good
    assert not list((tmp_path / "media").rglob("*.new"))


def test_another_part_of_the_bundle_is_replaced_only_where_that_was_said(carry, tmp_path):
    carry("--media", 1_000_000)
    first = next((tmp_path / "media").glob("tiny-2of*"))
    held = files(first)
    one = ("--media", 900_000, "--medium", 2)
    assert carry(*one, to=tmp_path / "one")[0] == 0
    (place,) = (tmp_path / "one").iterdir()
    place.rename(tmp_path / "aside")
    first.rename(place)
    code, told = carry(*one, to=tmp_path / "one")
    assert code == 2
    assert "of the bundle that would go" in told["message"]
    assert "--replace" in told["hint"]
    assert carry(*one, "--replace", to=tmp_path / "one")[0] == 0
    assert files(place).keys() != held.keys()
    assert files(place).keys() == files(tmp_path / "aside").keys()
    assert main(["verify", str(place)]) == 0


def test_the_bundle_itself_is_not_written_over(bundle, carry, tmp_path):
    before = {name: facts.st_mtime_ns for name, facts in files(bundle[0]).items()}
    for to in (bundle[0].parent, bundle[0], bundle[0] / "model"):
        code, told = carry("--replace", to=to)
        assert (code, told["message"]) == (2, "is the bundle itself")
    assert {name: facts.st_mtime_ns for name, facts in files(bundle[0]).items()} == before


@pytest.mark.parametrize("name", ["PART.json", "SHA256SUMS"])
def test_a_run_that_was_stopped_early_resumes(carry, tmp_path, name):
    division = ("--media", 1_000_000)
    carry(*division)
    first = next((tmp_path / "media").glob("tiny-1of*"))
    for path in sorted(first.rglob("*"), reverse=True):
        if path.name != name:
            path.rmdir() if path.is_dir() else path.unlink()
    assert carry(*division)[0] == 0
    assert main(["verify", str(first)]) == 0


def test_an_update_of_the_list_alone_travels(bundle, carry, tmp_path):
    other = tmp_path / "laptop/other"
    weights = random.Random(2).randbytes(3_000_000)
    BundleSimulator(weights=weights, chunk_bytes=CHUNK, title="Another title").write(other)
    code, told = carry("--base", other)
    assert code == 0
    (medium,) = told["media"]
    assert medium["folder"].endswith("tiny-update")
    assert carry("--base", bundle[0])[1]["media"] == []


def test_a_folder_with_anything_else_is_left_alone(carry, tmp_path):
    (tmp_path / "media/tiny").mkdir(parents=True)
    (tmp_path / "media/tiny/thesis.tex").write_text("years of work")
    code, told = carry("--replace")
    assert code == 2
    assert "left alone" in told["message"]
    assert (tmp_path / "media/tiny/thesis.tex").read_text() == "years of work"


def test_a_stranger_among_the_files_of_a_medium_is_named(carry, tmp_path):
    carry()
    (tmp_path / "media/tiny/model/thesis.tex").write_text("years of work")
    code, told = carry("--replace")
    assert code == 2
    assert "model/thesis.tex" in told["message"]
    assert (tmp_path / "media/tiny/model/thesis.tex").exists()


def test_another_bundle_is_replaced_only_where_that_was_said(carry, tmp_path):
    other = tmp_path / "laptop/other"
    BundleSimulator(release=1_800_000_000).write(other)
    assert main(["carry", str(other), "--to", str(tmp_path / "media")]) == 0
    code, told = carry()
    assert code == 2
    assert "holds bundle" in told["message"]
    assert "--replace" in told["hint"]
    assert carry("--replace")[0] == 0
    assert main(["verify", str(tmp_path / "media/tiny")]) == 0


def test_a_file_that_is_damaged_on_the_laptop_is_not_carried(bundle, carry, tmp_path):
    change(bundle[0] / SHARD, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    for options in ((), ("--media", 1_000_000)):
        code, told = carry(*options)
        assert (code, told["subject"]) == (4, SHARD)
        assert "damaged on this laptop" in told["message"]
        assert not (tmp_path / "media/tiny" / SHARD).exists()


def test_a_bundle_that_is_not_whole_is_not_carried(bundle, carry):
    (bundle[0] / SHARD).unlink()
    code, told = carry()
    assert code == 4
    assert SHARD in told["message"]


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (("--media", "a stick"), 2, "4.7GB"),
        (("--media", "1000000", "--medium", "99"), 2, "--medium"),
        (("--have", "/nothing"), 2, "--have"),
        (("--base", "/nothing"), 2, "earlier bundle"),
        (("--have", "-", "--base", "/nothing"), 2, "one of"),
        (("--to", "/nosuch/stick"), 2, "is the medium mounted?"),
        (("--to", "/dev/sdz9"), 2, "mount it"),
        (("--parity", "0%"), 2, "1% to 100%"),
        (("--expect", "ab" * 32), 5, "expected bundle id"),
    ],
)
def test_what_cannot_be_meant_is_refused(carry, options, code, word):
    got, told = carry(*options)
    assert got == code
    assert word in f"{told['subject']} {told['message']} {told['hint']}"


def test_more_media_than_folders(bundle, carry, tmp_path):
    code, told = carry("--to", tmp_path / "second", "--media", 1_000_000)
    assert code == 2
    assert "more than 2 media" in told["message"]
    assert not (tmp_path / "media").exists()


def test_the_plan_alone_writes_nothing(carry, tmp_path):
    code, told = carry("--media", 1_000_000, "--dry-run")
    assert code == 0
    assert told["kind"] == "carry-plan"
    assert len(told["media"]) >= 3
    assert not (tmp_path / "media").exists()


def test_a_plan_shows_each_medium_with_its_label_and_list(bundle, tmp_path, capsys):
    command = ["carry", str(bundle[0]), "--to", str(tmp_path / "media"), "--media", "1000000"]
    command += ["--parity", "10%", "--dry-run"]
    assert main(command) == 0
    said = capsys.readouterr().out
    media = re.split(r"^medium (?=\d+ of)", said, flags=re.MULTILINE)[1:]
    assert [one.split(":")[0] for one in media][:2] == [f"{n} of {len(media)}" for n in (1, 2)]
    assert f"label: tiny {bundle[1][:8]} 1 of {len(media)}" in media[0]
    assert all("recovery volumes: " in one for one in media)
    assert re.search(r"^ +[\d.]+ kB  install\.sh$", media[0], re.MULTILINE)
    assert re.search(r"^ +[\d.]+ kB  installer/$", media[0], re.MULTILINE)
    assert re.search(r"^ +[\d.]+ kB  model-0.*\.piece-\d+$", media[1], re.MULTILINE)
    assert said.count("about 0:0") == 2
    assert main([*command, "--medium", "2"]) == 0
    alone = capsys.readouterr().out
    assert alone.startswith(f"medium {media[1].split('about')[0]}")
    assert "medium 1 of" not in alone


def test_a_plan_counts_recovery_volumes(carry):
    plain = carry("--dry-run")[1]
    code, told = carry("--dry-run", "--parity", "50%")
    assert code == 0
    (medium,) = told["media"]
    assert medium["parity_bytes"] > 1_500_000
    assert told["size_bytes"] == plain["size_bytes"] + medium["parity_bytes"]
    written = carry("--parity", "50%")[1]["media"][0]["parity_bytes"]
    assert 0.9 * medium["parity_bytes"] < written <= medium["parity_bytes"]


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--medium", "1")])
def test_nothing_is_missing(bundle, tmp_path, capsys, more):
    command = ["carry", str(bundle[0]), "--to", str(tmp_path / "media"), *more]
    assert main([*command, "--base", str(bundle[0])]) == 0
    said = capsys.readouterr()
    assert "no medium is needed" in said.out + said.err
    assert "about" not in said.out


def test_a_plan_is_refused_where_writing_it_would_be(carry, tmp_path):
    other = tmp_path / "laptop/other"
    BundleSimulator(release=1_800_000_000).write(other)
    assert main(["carry", str(other), "--to", str(tmp_path / "media")]) == 0
    code, told = carry("--dry-run")
    assert (code, "--replace" in told["hint"]) == (2, True)
    assert carry("--dry-run", "--replace")[0] == 0


def test_a_repair_has_recovery_volumes_where_they_are_asked_for(bundle, carry, tmp_path):
    digests = [line.split() for line in (bundle[0] / "SHA256SUMS").read_text().splitlines()]
    (digest,) = [digest for digest, path in digests if path == SHARD]
    (tmp_path / "need.json").write_text(json.dumps({"kind": "need", "digests": [digest]}))
    code, told = carry("--need", tmp_path / "need.json", "--parity", "5%")
    assert (code, told["media"][0]["parity_bytes"] > 0) == (0, True)
    assert main(["verify", told["media"][0]["folder"]]) == 0


def test_a_medium_goes_to_its_own_folder(carry, tmp_path):
    places = [tmp_path / f"stick-{number}" for number in range(6)]
    more = [word for place in places for word in ("--to", place)]
    code, told = carry("--media", 1_000_000, "--medium", 2, *more, to=tmp_path / "first")
    assert code == 0
    assert [Path(one["folder"]).parent for one in told["media"]] == [places[0]]


def test_what_is_pasted_is_read_from_stdin(bundle, carry, tmp_path, monkeypatch, capsys):
    have = "\n".join(
        line.split()[0] for line in (bundle[0] / "SHA256SUMS").read_text().splitlines()
    )
    with (tmp_path / "have").open("w+") as stream:
        stream.write(have)
        stream.seek(0)
        monkeypatch.setattr("sys.stdin", stream)
        code, told = carry("--have", "-")
    assert (code, told["media"]) == (0, [])
    (tmp_path / "have").write_bytes(have.encode("utf-16"))  # as PowerShell's `>` writes it
    code, told = carry("--have", tmp_path / "have")
    assert (code, told["media"]) == (0, [])


def test_a_medium_that_fails_while_it_is_written(carry, monkeypatch):
    def fail(*_arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("llava_pack.target.disk.sync_all", fail)
    code, told = carry()
    assert code == 11
    assert "run the same command again" in told["hint"]


def test_what_an_operating_system_left_on_a_medium_is_no_hindrance(carry, tmp_path):
    carry("--media", 1_000_000)
    first = next((tmp_path / "media").glob("tiny-1of*"))
    (first / ".Trashes").mkdir()
    for name in (".DS_Store", "model/._config.json", ".Trashes/old"):
        (first / name).write_bytes(b"litter")
    assert carry("--media", 1_000_000)[0] == 0
    assert (first / ".Trashes/old").exists()
    assert main(["verify", str(first)]) == 0
