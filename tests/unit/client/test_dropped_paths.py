"""Paths as terminals and file managers write them."""

import shlex
from urllib.parse import quote

import pytest

from llava_pack.client.dropped_paths import dropped_files, path_of, paths_in

NAMES = [
    "a.png",
    "a b.png",
    "it's.png",
    'say "hi".png',
    "back\\slash.png",
    "50%20off.png",
    "ü 图.png",
]


def escaped(path):
    return "".join(f"\\{one}" if one in " '\"\\()&" else one for one in path)


@pytest.mark.parametrize("name", NAMES)
def test_every_way_to_write_a_file_is_that_file(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(b"")
    path = str(file)
    for written in (path, shlex.quote(path), escaped(path), f"file://{quote(path)}", f"  {path} "):
        assert paths_in(written) == [path], written
        assert dropped_files(written.strip()) == [path], written


def test_several_files_are_dropped_together(tmp_path):
    files = [tmp_path / name for name in NAMES]
    for file in files:
        file.write_bytes(b"")
    paths = [str(file) for file in files]
    for write in (shlex.quote, escaped, lambda path: f"file://{quote(path)}"):
        assert paths_in(" ".join(map(write, paths))) == paths


def test_a_name_that_is_nobodys_is_told_whole():
    assert paths_in("my holiday photo.png") == ["my holiday photo.png"]
    assert paths_in("it's gone.png") == ["it's gone.png"]
    assert paths_in("") == []


def test_a_url_of_another_machine_stays_one():
    assert path_of("file://server/a.png") == "file://server/a.png"
    assert path_of("https://example.org/a.png") == "https://example.org/a.png"
    assert path_of("file://localhost/a.png") == "/a.png"


def test_a_question_about_a_path_is_a_question(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"")
    assert dropped_files(f"{file} what is it?") == []
    assert dropped_files("/usr/bin is what?") == []
    assert dropped_files("a.png") == []  # a word
