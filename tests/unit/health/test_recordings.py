"""What `health --record` keeps is there whole, or is what was there before."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llava_pack.format.errors import SpaceError
from llava_pack.format.manifest import KnownAnswer, Reference
from llava_pack.health.recordings import record_here, recorded_here
from tests.support.small_disk import disk_of

KNOWN = KnownAnswer(name="shape", picture_png="aGk=", prompt="What is it?", contains=("circle",))
ANSWER = Reference(
    answer="shape",
    precision="fp32",
    made_on="cpu",
    recorded="now",
    text="a circle",
    prompt="",
    words="",
    pixels="",
    tower=(),
    projector=(),
    token_ids=(1,),
    likeliest=((1,),),
    micronats=((0,),),
)


class Server:
    """A server that gives one answer."""

    def __init__(self, text: str) -> None:
        self._text = text

    def observe(self, _model: str, _known: KnownAnswer) -> Reference:
        return replace(ANSWER, text=self._text)


@pytest.fixture
def item(tmp_path: Path) -> Any:
    root = tmp_path / "tiny" / "generations" / "1"
    root.mkdir(parents=True)
    manifest = SimpleNamespace(known_answers=(KNOWN,), model=SimpleNamespace(name="tiny"))
    return SimpleNamespace(manifest=manifest, root=root, bundle_id="ab" * 32, recipe="tiny")


def test_a_later_recording_replaces_the_one_before(item: Any) -> None:
    record_here(item, Server("a circle"))
    record_here(item, Server("a red circle"))
    assert [one.text for one in recorded_here(item)] == ["a red circle"]


def test_a_full_disk_is_told_as_one(item: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record_here(item, Server("a circle"))

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpaceError, match="no space left"):
        record_here(item, Server("a red circle"))
    assert [one.text for one in recorded_here(item)] == ["a circle"]


def test_a_file_that_may_not_grow_leaves_the_recording_before(item: Any, tmp_path: Path) -> None:
    record_here(item, Server("a circle"))
    with disk_of(100), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        record_here(item, Server("a red circle"))
    assert [one.text for one in recorded_here(item)] == ["a circle"]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
