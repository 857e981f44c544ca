"""Which special tokens a folder's tokenizer has, from its small files.

Source: transformers tokenization_utils_base.py (`added_tokens_decoder`, `added_tokens.json`);
huggingface/tokenizers `tokenizer.json` (`added_tokens`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llava_pack.checkpoint.byte_level import VOCABULARY, fast_tokenizer, tokenizer_state
from llava_pack.checkpoint.config import read_config, read_small
from llava_pack.checkpoint.sentencepiece_model import (
    PieceType,
    SentencepieceModel,
    parse_sentencepiece,
)
from llava_pack.checkpoint.token_files import (
    decoder_tokens,
    listed_tokens,
    named_specials,
    state_tokens,
)
from llava_pack.format.errors import CheckpointError

_PIECES = {PieceType.CONTROL, PieceType.UNKNOWN, PieceType.USER_DEFINED}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """Special and added tokens.

    Attributes:
        texts: of all.
        before: those that take the space before them with them.
        behind: those that take the space behind them with them.
        ids: of those that were added.
    """

    texts: frozenset[str]
    before: frozenset[str] = frozenset()
    behind: frozenset[str] = frozenset()
    ids: Mapping[str, int] = field(default_factory=dict, repr=False)

    def rowless(self, rows: object) -> frozenset[str]:
        """Return the added tokens that an embedding table has no row for.

        Args:
            rows: `vocab_size`, as a configuration says it.
        """
        if type(rows) is not int:  # which is told where the network is read
            return frozenset()
        return frozenset(token for token, token_id in self.ids.items() if token_id >= rows)

    def ends(self, after: str) -> tuple[str, ...]:
        """Return the token that a template writes right behind an answer, if there is one.

        >>> SpecialTokens(texts=frozenset({"<|im_end|>"})).ends("<|im_end|>")
        ('<|im_end|>',)
        """
        beginning = [token for token in self.texts if token and after.lstrip().startswith(token)]
        return (max(beginning, key=len),) if beginning else ()


NO_TOKENS = SpecialTokens(texts=frozenset())


def llama_vocabulary(folder: Path) -> SentencepieceModel | None:
    """Return `tokenizer.model` where it is what a folder's tokenizer is read from.

    One of another kind is passed over where there is a `tokenizer.json`, or what makes one.

    Raises:
        CheckpointError: it is damaged, or of another kind, and nothing else is there.
    """
    path = folder / "tokenizer.model"
    if not path.is_file():
        return None
    try:
        return parse_sentencepiece(read_small(path))
    except CheckpointError:
        if not any((folder / name).is_file() for name in ("tokenizer.json", VOCABULARY)):
            raise
        return None


def check_tokenizer(folder: Path) -> SentencepieceModel | None:
    """Return what `llama_vocabulary` does, of a folder whose tokenizer can be read.

    Raises:
        CheckpointError: it cannot.
    """
    read_special_tokens(folder)
    model = llama_vocabulary(folder)
    state = tokenizer_state(folder) if model is None else None
    if state is not None:
        fast_tokenizer(folder, state)
    return model


def read_special_tokens(folder: Path) -> SpecialTokens | None:
    """Return the special tokens of a folder's tokenizer; None where it has no tokenizer.

    Raises:
        CheckpointError: a file is damaged, or the tokenizer is of a kind that is not supported.
    """
    model, state = llama_vocabulary(folder), tokenizer_state(folder)
    if model is None and state is None:
        return None
    config = read_config(folder / "tokenizer_config.json")
    decoder, listed = decoder_tokens(config), listed_tokens(folder)
    added = state_tokens(state or {})
    named_specials(folder)  # held against its form, whichever tokenizer needs it
    ids = {one["content"]: one["id"] for one in added} | listed
    ids |= {entry["content"]: token_id for token_id, entry in decoder.items()}
    entries = [*added, *decoder.values()]
    texts = set(ids)
    if model is not None:
        texts |= {piece.text for piece in model.pieces if piece.type in _PIECES}
    return SpecialTokens(
        texts=frozenset(texts),
        before=frozenset(one["content"] for one in entries if one.get("lstrip")),
        behind=frozenset(one["content"] for one in entries if one.get("rstrip")),
        ids=ids,
    )


def check_rows(rowless: Sequence[str], conv_mode: str, subject: str) -> None:
    """Check that every token of a template has a row in the embedding table.

    Raises:
        CheckpointError: some have none.
    """
    if rowless:
        raise CheckpointError(
            f"the embedding table has no row for {', '.join(rowless)} of the conversation "
            f"template {conv_mode}",
            subject=subject,
            hint="use the tokenizer and the weights of the same repository",
        )
