"""`tokenizer.json` for a checkpoint that came with `tokenizer.model` only."""

from pathlib import Path

from llava_pack.checkpoint.config import read_config, read_small
from llava_pack.checkpoint.tokenizer_json import tokenizer_json
from llava_pack.format.errors import CheckpointError


def made_tokenizer(folder: Path) -> bytes:
    """Return the `tokenizer.json` of a checkpoint, made from its `tokenizer.model`.

    Raises:
        CheckpointError: there is none, it is of another kind than Llama's, or an added token has no
            id.
    """
    model = folder / "tokenizer.model"
    if not model.is_file():
        raise CheckpointError(
            "this folder contains no tokenizer, expected tokenizer.model or tokenizer.json",
            subject=folder.name,
        )
    config = read_config(folder / "tokenizer_config.json")
    added = read_config(folder / "added_tokens.json")
    for text, number in added.items():
        if type(number) is not int:
            raise CheckpointError(f"added token {text!r} has no id", subject="added_tokens.json")
    return tokenizer_json(read_small(model), config, added)
