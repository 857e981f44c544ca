import json

import pytest
from tokenizers import Tokenizer

from llava_pack.convert.tokenizer import made_tokenizer
from llava_pack.format.errors import CheckpointError
from tests.support.checkpoints import make_llava


def test_built_from_the_model_and_its_configuration(tmp_path):
    folder = make_llava(tmp_path / "in")
    (folder / "added_tokens.json").write_text('{"<im_patch>": 320}')
    tokenizer = Tokenizer.from_str(made_tokenizer(folder).decode())
    assert tokenizer.encode("the<im_patch>").ids[-1] == 320


def test_a_checkpoint_without_configuration_of_its_tokenizer(tmp_path):
    folder = make_llava(tmp_path / "in")
    (folder / "tokenizer_config.json").unlink()
    assert Tokenizer.from_str(made_tokenizer(folder).decode()).get_vocab_size() == 320


def test_no_tokenizer(tmp_path):
    folder = make_llava(tmp_path / "in")
    (folder / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        made_tokenizer(folder)


@pytest.mark.parametrize("number", ["320", None, 1.5, True])
def test_added_tokens_without_numbers(tmp_path, number):
    folder = make_llava(tmp_path / "in")
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": number}))
    with pytest.raises(CheckpointError, match="has no id"):
        made_tokenizer(folder)
