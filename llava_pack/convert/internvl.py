"""OpenGVLab's InternVL as a folder that transformers' own class reads; its code is not run.

Tensors are renamed, queries, keys and values cut apart by rows, one by one from the mapped files;
no torch is needed. The tables get a row for `<video>`, which the processor of that class asks for.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.config import read_config
from llava_pack.checkpoint.internvl import END, InternVl, internvl
from llava_pack.checkpoint.internvl_names import RowPiece
from llava_pack.checkpoint.native import PICTURE_WORDS, lacking_words
from llava_pack.convert import internvl_config
from llava_pack.convert.native import read_tokenizer
from llava_pack.convert.native_config import VIDEO_TOKEN
from llava_pack.convert.native_tokenizer import Extended, with_tokens
from llava_pack.convert.output import write_texts
from llava_pack.convert.parts import read_json
from llava_pack.convert.shards import (
    SHARD_BYTES,
    SourceTensor,
    opened,
    weight_paths,
    write_shards,
)
from llava_pack.convert.table_rows import TableRows, whole_rows, with_rows
from llava_pack.format.errors import CheckpointError
from llava_pack.format.progress import Progress

PICTURE = PICTURE_WORDS[-1]
_TABLES = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")


def to_internvl(
    model_dir: Path,
    out_dir: Path,
    *,
    chat_template: str,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> list[Path]:
    """Write an InternVL of its authors' as transformers' own class reads it; return the files.

    Elements keep their type and bytes. The same input gives the same bytes. Memory stays near one
    tensor.

    Args:
        model_dir: with config.json, the tokenizer, and weights in safetensors or `.bin` files.
        out_dir: an existing folder; files of the same names are replaced.
        chat_template: gives the prompt that the model was trained with, in Jinja.
        shard_bytes: upper bound of each weight file.
        progress: told the bytes as they are written.

    Raises:
        CheckpointError: it is damaged, or transformers' own class cannot be it.
        SpaceError: the disk is full.
    """
    config = read_json(model_dir / "config.json")
    made = internvl(config)
    tokenizer, own = read_tokenizer(model_dir)
    extended = with_tokens(tokenizer, own, (), (VIDEO_TOKEN,))
    with opened(weight_paths(model_dir)) as tensors:
        cut = [_cut(one, piece) for one in tensors for piece in made.pieces(one.entry)]
        table = next((one.entry for one in cut if one.entry.name == _TABLES[0]), None)
        if table is None:
            raise CheckpointError(f"there is no {_TABLES[0]}", subject=model_dir.name)
        rows = table.shape[0] if extended.size <= table.shape[0] else whole_rows(extended.size)
        rules = TableRows(kept=table.shape[0], total=rows, filler=extended.filler)
        needed = made.shapes()
        kept = [one for one in cut if one.entry.name in needed]
        wide = [with_rows(t, rules) if _grows(t, rules) else t for t in kept]
        texts = _texts(model_dir, config, made, extended, rows)
        texts["chat_template.jinja"] = chat_template.encode()
        paths = write_shards(wide, out_dir, shard_bytes=shard_bytes, progress=progress)
        return [*write_texts(texts, out_dir), *paths]


def _grows(tensor: SourceTensor, rules: TableRows) -> bool:
    return tensor.entry.name in _TABLES and tensor.entry.shape[0] < rules.total


def _texts(
    folder: Path, config: Mapping[str, Any], made: InternVl, extended: Extended, rows: int
) -> dict[str, bytes]:
    own = read_config(folder / "tokenizer_config.json")
    ids = token_ids(extended.data)
    published = read_config(folder / "generation_config.json")
    documents = {
        "config.json": internvl_config.whole_config(config, made, rows=rows, image=ids[PICTURE]),
        "generation_config.json": internvl_config.generation(made, published, ids[END]),
        "preprocessor_config.json": internvl_config.image_processor(made),
        "processor_config.json": internvl_config.processor(made),
        "video_preprocessor_config.json": internvl_config.video_processor(made),
        "tokenizer_config.json": internvl_config.tokenizer(own, extended.data, made.language),
    }
    texts = {
        name: json.dumps(value, indent=2).encode() + b"\n" for name, value in documents.items()
    }
    return {**texts, "tokenizer.json": extended.data}


def token_ids(tokenizer: bytes) -> dict[str, int]:
    """Return the ids of the words that stand in every prompt.

    Raises:
        CheckpointError: the tokenizer lacks one.
    """
    state = json.loads(tokenizer)
    known = {**state["model"]["vocab"], **{t["content"]: t["id"] for t in state["added_tokens"]}}
    lacking = [word for word in (*PICTURE_WORDS, END) if word not in known]
    if lacking:
        raise CheckpointError(lacking_words(lacking), subject="tokenizer.json")
    return {word: known[word] for word in (*PICTURE_WORDS, END)}


def _cut(tensor: SourceTensor, piece: RowPiece) -> SourceTensor:
    """Return the rows of a tensor that are a piece: of one block without a copy."""
    if piece.whole:
        return SourceTensor(piece.entry, tensor.read, tensor.release)
    rows = tensor.entry.shape[0]
    row_bytes = tensor.entry.size_bytes // rows

    def read() -> memoryview:
        view = tensor.read().cast("B")
        starts = range(0, rows, piece.block)
        parts = [
            view[(at + piece.start) * row_bytes : (at + piece.stop) * row_bytes] for at in starts
        ]
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))

    return SourceTensor(piece.entry, read, tensor.release)
