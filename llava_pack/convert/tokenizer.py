"""`tokenizer.json` for a checkpoint that came with `tokenizer.model` only."""

from pathlib import Path

from llava_pack.checkpoint.config import parse_config, read_small
from llava_pack.checkpoint.tokenizer_json import tokenizer_json
from llava_pack.convert.output import whole_file
from llava_pack.format.errors import CheckpointError

__all__ = ["added_tokens", "tokenizer_json", "write_tokenizer"]


def write_tokenizer(model_dir: Path, out_dir: Path) -> Path | None:
    """Write `tokenizer.json` and return it, or None where the checkpoint brings its own.

    Raises:
        CheckpointError: there is neither `tokenizer.json` nor a Llama-style `tokenizer.model`.
        SpaceError: the disk is full.
    """
    if (model_dir / "tokenizer.json").is_file():
        return None
    model = model_dir / "tokenizer.model"
    if not model.is_file():
        raise CheckpointError(
            "this folder contains no tokenizer, expected tokenizer.model or tokenizer.json",
            subject=model_dir.name,
        )
    config = _table(model_dir / "tokenizer_config.json")
    added = added_tokens(_table(model_dir / "added_tokens.json"))
    path = out_dir / "tokenizer.json"
    data = tokenizer_json(read_small(model), config, added)
    with whole_file(path) as out:
        out.write(data)
    return path


def added_tokens(table: dict[str, object]) -> dict[str, int]:
    """Return added_tokens.json, text to id.

    Raises:
        CheckpointError: a token has no id.
    """
    numbers = {text: number for text, number in table.items() if type(number) is int}
    for text in table.keys() - numbers.keys():
        raise CheckpointError(f"added token {text!r} has no id", subject="added_tokens.json")
    return numbers


def _table(path: Path) -> dict[str, object]:
    return parse_config(read_small(path), subject=path.name) if path.is_file() else {}
