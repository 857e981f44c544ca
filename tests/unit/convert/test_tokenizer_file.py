import json

import pytest
from tokenizers import Tokenizer

from llava_pack.convert.tokenizer import write_tokenizer
from llava_pack.format.errors import CheckpointError
from tests.support.checkpoints import make_llava


def test_built_from_the_model_and_its_configuration(tmp_path):
    folder = make_llava(tmp_path / "in")
    (folder / "added_tokens.json").write_text('{"<im_patch>": 320}')
    (tmp_path / "out").mkdir()
    path = write_tokenizer(folder, tmp_path / "out")
    assert path == tmp_path / "out" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    assert tokenizer.encode("the<im_patch>").ids[-1] == 320


def test_a_checkpoint_that_brings_its_own(tmp_path):
    folder = make_llava(tmp_path / "in")
    (folder / "tokenizer.json").write_text("{}")
    assert write_tokenizer(folder, tmp_path) is None
    assert not (tmp_path / "tokenizer.json").exists()


def test_a_checkpoint_without_configuration_of_its_tokenizer(tmp_path):
    folder = make_llava(tmp_path / "in")
    (folder / "tokenizer_config.json").unlink()
    assert write_tokenizer(folder, tmp_path) is not None


def test_no_tokenizer(tmp_path):
    folder = make_llava(tmp_path / "in")
    (folder / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        write_tokenizer(folder, tmp_path)


@pytest.mark.parametrize("number", ["320", None, 1.5, True])
def test_added_tokens_without_numbers(tmp_path, number):
    folder = make_llava(tmp_path / "in")
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": number}))
    with pytest.raises(CheckpointError, match="has no id"):
        write_tokenizer(folder, tmp_path)
