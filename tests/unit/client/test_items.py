"""What of a folder is asked about, and that nothing of it is left out without a word."""

import os

import pytest

from llava_pack.client.items import select_items
from llava_pack.engine.inputs.picture_formats import FORMATS
from llava_pack.format.errors import UsageError


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def asked(folder, **given):
    chosen = select_items(folder, "what?", **given)
    return [one.image for one in chosen.items], [one.path for one in chosen.left_out]


@pytest.mark.parametrize("suffix", [end for one in FORMATS for end in one.suffixes])
def test_every_name_of_a_picture_is_asked_about(tmp_path, suffix):
    put(tmp_path, f"a{suffix}", f"b/C{suffix.upper()}")
    assert asked(tmp_path) == ([f"a{suffix}", f"b/C{suffix.upper()}"], [])


def test_what_is_left_out_is_told_with_the_reason(tmp_path):
    put(tmp_path, "a.png", "notes.txt", "deep/scan.pdf", "deep/README")
    chosen = select_items(tmp_path, "what?")
    assert [one.path for one in chosen.left_out] == ["deep/README", "deep/scan.pdf", "notes.txt"]
    assert all("expected JPEG, PNG" in one.why for one in chosen.left_out)


def test_a_link_that_leads_nowhere_is_left_out(tmp_path):
    put(tmp_path, "a.png", "answers.jsonl")
    (tmp_path / "notes").symlink_to(tmp_path / "gone")
    assert asked(tmp_path, out=tmp_path / "answers.jsonl") == (["a.png"], ["notes"])


def test_what_a_system_left_there_is_no_bodys(tmp_path):
    put(tmp_path, "a.png", ".DS_Store", "._a.png", "Thumbs.db", "desktop.ini", ".hidden.png")
    assert asked(tmp_path) == ([".hidden.png", "a.png"], [])


def test_the_answers_may_lie_beside_the_pictures(tmp_path):
    put(tmp_path, "a.png", "answers.jsonl", "other.jsonl")
    out = tmp_path / "answers.jsonl"
    assert asked(tmp_path, out=out) == (["a.png"], ["other.jsonl"])


def test_folders_that_are_not_read_are_told(tmp_path):
    put(tmp_path, "all/a.png", "elsewhere/b.png", "all/shut/c.png")
    (tmp_path / "all" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "all" / "shut").chmod(0)
    try:
        images, left_out = asked(tmp_path / "all")
    finally:
        (tmp_path / "all" / "shut").chmod(0o755)
    if os.geteuid() == 0:  # nothing is shut for root
        assert (images, left_out) == (["a.png", "shut/c.png"], ["link/"])
    else:
        assert (images, left_out) == (["a.png"], ["link/", "shut/"])


def test_a_folder_without_pictures_is_refused(tmp_path):
    put(tmp_path, "notes.txt")
    with pytest.raises(UsageError, match="no pictures found, expected JPEG"):
        select_items(tmp_path, "what?")
