"""The words that stand before and after a picture where a model wants them, and their rows.

Source: haotian-liu/LLaVA llava/model/builder.py (which words its code adds to a tokenizer).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.byte_level import tokenizer_state
from llava_pack.checkpoint.config import read_config
from llava_pack.checkpoint.kind import image_words
from llava_pack.checkpoint.special_tokens import llama_vocabulary
from llava_pack.checkpoint.token_files import decoder_tokens, listed_tokens, state_tokens
from llava_pack.checkpoint.values import size
from llava_pack.format.errors import CheckpointError

PICTURE_ENDS = ("<im_start>", "<im_end>")


def added_ids(folder: Path, pieces: int, words: Sequence[str] = ()) -> dict[str, int]:
    """Return the ids of the tokens that a folder adds to its `tokenizer.model`.

    Args:
        folder: of the tokenizer.
        pieces: of the model.
        words: that LLaVA's own code adds behind them where the folder has them not.

    Raises:
        CheckpointError: a file of the tokenizer names no tokens where it should.
    """
    config = read_config(folder / "tokenizer_config.json")
    added = listed_tokens(folder)
    for token_id, entry in decoder_tokens(config).items():
        added[entry["content"]] = token_id
    for word in words:
        if word not in added:
            added[word] = max(pieces, max(added.values(), default=0) + 1)
    return added


def check_picture_ends(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that pictures can stand between the words that a model wants around them.

    Args:
        folder: of the tokenizer.
        config: the checkpoint's, in the original keys.

    Raises:
        CheckpointError: the vocabulary has no such word, or the embedding table no row for it.
    """
    if not config.get("mm_use_im_start_end", False):
        return
    rows, ids = size(config, "vocab_size"), _ids(folder, config)
    if any(ids.get(word, rows) >= rows for word in PICTURE_ENDS):
        raise CheckpointError(
            f"mm_use_im_start_end is true, but the embedding table has {rows} rows and none for "
            f"{', '.join(PICTURE_ENDS)}",
            subject="config.json",
            hint="use the tokenizer and the weights of the same repository",
        )


def _ids(folder: Path, config: Mapping[str, Any]) -> dict[str, int]:
    model = llama_vocabulary(folder)
    if model is None:
        added = state_tokens(tokenizer_state(folder) or {})
        return {entry["content"]: entry["id"] for entry in added}
    pieces = {piece.text: number for number, piece in enumerate(model.pieces)}
    return pieces | added_ids(folder, len(pieces), image_words(config))
