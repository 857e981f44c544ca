"""A source on its way into a bundle."""

import shutil
from pathlib import Path

import pytest

from llava_pack.assemble.sources import Identified, Listed
from llava_pack.checkpoint.kind import Kind
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.directory import DirectorySource
from llava_pack.format.errors import CheckpointError
from llava_pack.format.progress import Silent
from tests.support.checkpoints import make_llava


def _identified(source: Path, work: Path) -> Identified:
    listing = DirectorySource(folder=source, name=source.name).list()
    listed = Listed(listing=listing, expected=(), cache=Cache(work / "cache"), folder=work / "laid")
    return listed.identify([Kind.ORIGINAL], Silent())


def test_what_a_source_no_longer_holds_is_not_taken_from_an_earlier_run(tmp_path: Path) -> None:
    """A tokenizer is made from every file of its folder: a lock would no longer be one bundle."""
    source = make_llava(tmp_path / "llava-v1-tiny")
    (source / "added_tokens.json").write_text('{"<new>": 7}')
    folder = _identified(source, tmp_path).listed.folder
    assert (folder / "added_tokens.json").is_file()
    (source / "added_tokens.json").unlink()
    again = _identified(source, tmp_path).listed.folder
    assert again == folder
    assert not (folder / "added_tokens.json").exists()
    assert (folder / "config.json").is_file()
    assert (source / "config.json").is_file()
    shutil.rmtree(folder)
    assert _identified(source, tmp_path).kind is Kind.ORIGINAL


def test_weights_that_deepspeed_left_in_parts_are_to_be_joined_first(tmp_path: Path) -> None:
    source = make_llava(tmp_path / "llava-v1-tiny")
    for path in source.glob("pytorch_model*"):
        path.unlink()
    (source / "global_step500").mkdir()
    (source / "global_step500" / "mp_rank_00_model_states.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="it contains no weights") as caught:
        _identified(source, tmp_path)
    assert "zero_to_fp32.py" in caught.value.hint
