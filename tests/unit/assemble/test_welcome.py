"""START-HERE.txt: lines to paste, in both languages, and nothing in them but commands."""

import shlex
from dataclasses import replace

import pytest

from llava_pack.assemble.card import carry_lines
from llava_pack.assemble.welcome import welcome
from llava_pack.format.welcome import MAX_START_BYTES
from tests.support.bundle import BundleSimulator


@pytest.fixture
def manifest():
    simulator = BundleSimulator()
    return simulator.manifest(simulator.payload())


def test_both_languages_have_the_same_lines_and_none_of_them_a_remark(manifest):
    halves = welcome(manifest).decode().split("----\n")
    english, chinese = (
        [line.strip() for line in half.splitlines() if line.startswith("  ")] for half in halves
    )
    assert english == chinese
    for platform in ("linux", "win32"):
        assert {line.strip() for line in carry_lines("FOLDER", platform)} <= {*english}
    for line in english:
        assert shlex.split(line, comments=True) == shlex.split(line), line


def test_it_says_what_the_bundle_fits_on(manifest):
    text = welcome(manifest).decode()
    assert "fits on 1 x 8 GB stick, 1 x DVD, or 1 x Blu-ray." in text
    assert "1 个 8 GB 的 U 盘、1 张 DVD" in text


def test_it_is_the_same_wherever_it_is_made_and_short_enough_to_be_read(manifest, monkeypatch):
    told = welcome(manifest)
    monkeypatch.setattr("sys.platform", "darwin")
    assert welcome(replace(manifest)) == told
    assert len(told) < MAX_START_BYTES
