"""`carry` on media that are nearly full: what fits is known before anything is written."""

import json
import os
import random
import subprocess
import sys

import pytest

from tests.support import file_systems
from tests.support.bundle import BundleSimulator
from tests.support.namespaces import unshared

SPACE = "-m" if os.geteuid() == 0 else "-rm"
NO_SPACES = pytest.mark.skipif(not unshared(SPACE), reason="no mount namespaces here")
NO_MOUNTS = pytest.mark.skipif(
    not file_systems.possible() or "mkfs.exfat" in file_systems.missing(), reason="no loop devices"
)
MOUNTED = """
import json, subprocess, sys
disks, runs = json.loads(sys.argv[1])
for place, size in disks.items():
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], check=True)
for words in runs:
    if words[0] == "carry":
        words = [sys.executable, "-m", "llava_pack", *words]
    done = subprocess.run(words, capture_output=True)
    print(json.dumps([done.returncode, done.stdout.decode().splitlines()[-1:] or ["{}"]]))
"""


@pytest.fixture
def bundle(tmp_path):
    """A bundle of 3.7 MB on a disk of its own."""
    weights = random.Random(2).randbytes(3_000_000)
    BundleSimulator(weights=weights, chunk_bytes=65_536).write(tmp_path / "laptop/tiny")
    return tmp_path / "laptop/tiny"


@pytest.fixture
def runs(bundle, tmp_path):
    """Return what some runs come to, one after the other, on disks of some sizes.

    Each is a line for a shell without its own syntax, or the options of `carry`.
    """

    def run(sizes, *options):
        places = [tmp_path / f"stick-{number}" for number in range(len(sizes))]
        for place in places:
            place.mkdir()
        to = [word for place in places for word in ("--to", str(place))]
        words = [
            each.split() if isinstance(each, str) else
            ["carry", str(bundle), *to, "--json", *map(str, each)]
            for each in options
        ]  # fmt: skip
        disks = dict(zip(map(str, places), sizes, strict=True))
        command = ["unshare", SPACE, sys.executable, "-c", MOUNTED, json.dumps([disks, words])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        told = map(json.loads, done.stdout.splitlines())
        return [(code, json.loads(line)) for code, (line,) in told]

    return run


@NO_SPACES
@pytest.mark.namespace
@pytest.mark.parametrize("more", [(), ("--parity", "5%")])
def test_the_same_command_resumes_on_sticks_that_are_filled_as_far_as_they_are_free(runs, more):
    sizes = ["2200k", "3500k"]
    first, second, anew = runs(sizes, more, more, [*more, "--replace"])
    assert [code for code, _ in (first, second, anew)] == [0, 0, 0]
    assert len(first[1]["media"]) == 2
    assert [one["copied_bytes"] for one in second[1]["media"]] == [0, 0]
    assert [one["parity_bytes"] > 0 for one in second[1]["media"]] == [bool(more)] * 2


@NO_SPACES
@pytest.mark.namespace
def test_what_else_is_put_on_the_sticks_or_taken_off_moves_no_file(runs, tmp_path):
    photos = tmp_path / "stick-0/photos"
    alone = runs(
        ["4M", "4M"],
        f"fallocate -l 2000000 {photos}", [], f"rm {photos}", [], f"fallocate -l 2000000 {photos}",
        ["--replace"],
    )  # fmt: skip
    assert [code for code, _ in alone] == [0] * 6
    assert [one["copied_bytes"] > 0 for one in alone[1][1]["media"]] == [True, True]
    assert [one["copied_bytes"] for one in alone[3][1]["media"]] == [0, 0]


@NO_SPACES
@pytest.mark.namespace
def test_one_stick_of_a_set_is_written_and_then_the_rest(runs):
    first, second = runs(["1900k", "3200k"], ["--medium", "1"], [])
    assert (first[0], second[0]) == (0, 0)
    assert [one["copied_bytes"] > 0 for one in second[1]["media"]] == [False, True]


@NO_SPACES
@pytest.mark.namespace
def test_a_stick_that_is_too_small_is_passed_over(runs, bundle):
    sums = bundle / "SHA256SUMS"
    have = bundle.parent / "have"
    lines = sums.read_text().splitlines(keepends=True)
    have.write_text("".join(line for line in lines if ".safetensors" not in line))
    ((code, told),) = runs(["64k", "60M"], ["--have", have])
    assert code == 0
    assert [one["folder"].split("/")[-2:] for one in told["media"]] == [["stick-1", "tiny-update"]]


@NO_SPACES
@pytest.mark.namespace
def test_recovery_volumes_need_as_much_as_they_are(runs):
    """Little beside them; what does not fit is said before anything is written."""
    (small, again) = runs(["4500k"], ["--parity", "5%"], ["--parity", "5%"])
    assert (small[0], again[0]) == (0, 0)
    assert again[1]["media"][0]["copied_bytes"] == 0
    assert small[1]["media"][0]["parity_bytes"] > 200_000


@NO_SPACES
@pytest.mark.namespace
def test_recovery_volumes_without_room_are_refused_before_anything_is_written(runs):
    refused, without = runs(["4500k"], ["--parity", "50%"], [])
    assert refused[0] == 7
    assert "4.6 MB are free" in refused[1]["message"]  # all of it
    assert "less recovery data" in refused[1]["hint"]
    assert without[0] == 0


@NO_MOUNTS
@pytest.mark.parametrize("free", [2_000_000, 2_300_000, 2_700_000])
def test_clusters_of_32_kib_are_planned_as_such(bundle, tmp_path, free, capfd):
    images = [
        file_systems.made(tmp_path / f"{name}.img", "exfat", 16_000_000, clusters="32K")
        for name in ("first", "second")
    ]
    command = [sys.executable, "-m", "llava_pack", "carry", bundle, "--json"]
    with (
        file_systems.mounted(images[0], "exfat") as one,
        file_systems.mounted(images[1], "exfat") as two,
    ):
        facts = os.statvfs(one)
        (one / "photos").write_bytes(bytes(facts.f_bavail * facts.f_frsize - free))
        for copied in (True, False):
            done = subprocess.run(
                [*command, "--to", one, "--to", two], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout
            media = json.loads(done.stdout.splitlines()[-1])["media"]
            assert [medium["copied_bytes"] > 0 for medium in media] == [copied] * len(media)
