"""What wheels need is read once, and known by their digest from then on."""

import json
import zipfile
from hashlib import sha256

import pytest

from llava_pack.assemble.proved import prove, recalled
from llava_pack.fetch.cache import Cache
from llava_pack.format import files
from llava_pack.format.progress import Silent


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def wheels(tmp_path, cache):
    """Put a wheel with a program of this system into the cache."""
    wheel = tmp_path / "tool-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write("/bin/ls", "tool/tool.so")
    digest = sha256(wheel.read_bytes()).hexdigest()
    cache.adopt(wheel, digest)
    return {"tool-1-py3-none-any.whl": digest}


def test_what_was_read_once_is_known_without_the_wheel(cache, wheels):
    assert recalled(wheels, "x86_64", cache) is None
    proved = prove(wheels, "x86_64", cache, Silent())
    (digest,) = wheels.values()
    held = cache.path(digest)
    held.unlink()
    assert recalled(wheels, "x86_64", cache) == proved
    assert prove(wheels, "x86_64", cache, Silent()) == proved


def test_two_builds_that_read_one_wheel_share_no_unfinished_file(cache, wheels):
    """They had one name for it: the one that was slower lost its file to the other."""
    prove(wheels, "x86_64", cache, Silent())
    (note,) = (cache.root / "elf").iterdir()
    with files.replacing(note) as of_another_build:
        of_another_build.write(whole := note.read_bytes())
        note.unlink()
        prove(wheels, "x86_64", cache, Silent())
        assert note.read_bytes() == whole
    assert [(path, path.read_bytes()) for path in note.parent.iterdir()] == [(note, whole)]


@pytest.mark.parametrize("spoil", [lambda text: text[:-9], lambda text: json.dumps({"files": []})])
def test_a_damaged_or_older_result_is_not_believed(cache, wheels, spoil):
    prove(wheels, "x86_64", cache, Silent())
    (note,) = (cache.root / "elf").iterdir()
    note.write_text(spoil(note.read_text()))
    assert recalled(wheels, "x86_64", cache) is None
