"""The cache's own rules."""

import hashlib
from pathlib import Path
from threading import Event

import pytest

from llava_pack.fetch.cache import Cache, default_root
from llava_pack.fetch.locks import Stopped, _is_at, exclusive

DATA = b"bytes"
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({}, Path.home() / ".cache/llava-pack"),
        ({"XDG_CACHE_HOME": "/x"}, Path("/x/llava-pack")),
        ({"XDG_CACHE_HOME": "/x", "LLAVA_PACK_CACHE": "/own"}, Path("/own")),
        ({"XDG_CACHE_HOME": "", "LLAVA_PACK_CACHE": ""}, Path.home() / ".cache/llava-pack"),
    ],
)
def test_where_it_is(environ: dict[str, str], root: Path) -> None:
    assert default_root(environ, "linux") == root


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({"LOCALAPPDATA": "/local"}, Path("/local/llava-pack")),
        ({"LOCALAPPDATA": "/local", "XDG_CACHE_HOME": "/x"}, Path("/x/llava-pack")),
        ({"LOCALAPPDATA": "/local", "LLAVA_PACK_CACHE": "/own"}, Path("/own")),
        ({}, Path.home() / ".cache/llava-pack"),
    ],
)
def test_where_it_is_on_windows(environ: dict[str, str], root: Path) -> None:
    assert default_root(environ, "win32") == root


def test_the_environment_is_read_when_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_PACK_CACHE", str(tmp_path / "own"))
    assert Cache().root == tmp_path / "own"


def test_adopted_files_are_found(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    (cache.parts / "p").write_bytes(DATA)
    path = cache.adopt(cache.parts / "p", DIGEST)
    assert path == cache.root / "sha256" / DIGEST[:2] / DIGEST == cache.path(DIGEST)
    (cache.parts / "p").write_bytes(DATA)
    assert cache.adopt(cache.parts / "p", DIGEST) == path
    assert not (cache.parts / "p").exists()
    assert cache.path("0" * 64) is None


@pytest.mark.parametrize(
    "note",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"sha256": "../../secret", "validator": null}',
        '{"sha256": 1, "validator": 2}',
    ],
)
def test_a_damaged_note_is_no_note(tmp_path: Path, note: str) -> None:
    cache = Cache(tmp_path / "cache")
    (tmp_path / "secret").write_bytes(DATA)
    (cache.root / "refs" / "git-x").write_text(note)
    assert cache.recall("git-x") is None


def test_a_lock_file_that_was_replaced_is_not_the_lock(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("wb") as stream:
        assert _is_at(stream.fileno(), tmp_path / "lock")
        (tmp_path / "other").touch()
        (tmp_path / "other").replace(tmp_path / "lock")
        assert not _is_at(stream.fileno(), tmp_path / "lock")
        (tmp_path / "lock").unlink()
        assert not _is_at(stream.fileno(), tmp_path / "lock")


def test_a_lock_is_held_once_and_goes_away(tmp_path: Path) -> None:
    stop = Event()
    with exclusive(tmp_path / "lock", stop):
        stop.set()
        with pytest.raises(Stopped), exclusive(tmp_path / "lock", stop):
            raise AssertionError
    assert list(tmp_path.iterdir()) == []
