"""A LLaVA as transformers-native folder: tower inside, in the names that every engine reads.

Tensors are renamed and copied one by one from the mapped files; no torch is needed, unless the
linears are quantized on the way.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.byte_level import joined_tokenizer
from llava_pack.checkpoint.config import read_config, read_small
from llava_pack.checkpoint.keymap import INSIDE, exchange_name
from llava_pack.checkpoint.kind import backbone, image_words
from llava_pack.convert import native_config
from llava_pack.convert.native_form import NativeForm, native_form
from llava_pack.convert.native_tokenizer import is_legacy, tokenizer_config, with_image_token
from llava_pack.convert.output import write_texts
from llava_pack.convert.parts import (
    Parts,
    picture_settings,
    read_json,
    tower_tensors,
)
from llava_pack.convert.shards import SHARD_BYTES, SourceTensor, renamed, write_shards
from llava_pack.convert.table_rows import TableRows, whole_rows, with_rows
from llava_pack.convert.tokenizer import made_tokenizer
from llava_pack.format.errors import CheckpointError
from llava_pack.format.progress import Progress

_TABLES = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True, kw_only=True)
class NativeFolder:
    """What a native folder will hold: its small files, and its tensors with their names.

    Attributes:
        texts: file name to content.
        tensors: in the order of the source; the embedding table first extended.
    """

    texts: Mapping[str, bytes]
    tensors: Sequence[SourceTensor]


@contextmanager
def native_folder(
    parts: Parts,
    tower_dir: Path,
    *,
    chat_template: str,
    precision: str | None = None,
    writable: bool = False,
) -> Iterator[NativeFolder]:
    """Return what the native folder of a checkpoint holds, until the block ends.

    Args:
        parts: the checkpoint, opened.
        tower_dir: its tower; of one that is inside only the configurations are read.
        chat_template: gives the prompt that the model was trained with, in Jinja.
        precision: `nf4` or `int8`, told in config.json.
        writable: the views of tensors may be given to torch.

    Raises:
        CheckpointError: the checkpoint has a part that transformers' LLaVA has not.
    """
    tower_config = read_json(tower_dir / "config.json")
    preprocessor = picture_settings(tower_dir)
    tokenizer, own = read_tokenizer(parts.texts)
    own["legacy"] = is_legacy(own, backbone(parts.config))
    form = native_form(parts.config, tower_config, preprocessor)
    words = image_words(parts.config)
    extended = with_image_token(tokenizer, own, words, video=form.most_tiles > 0)
    table = next((t.entry for t in parts.tensors if t.entry.name == _TABLES[0]), None)
    if table is None:
        raise CheckpointError(f"there is no {_TABLES[0]}", subject=parts.texts.name)
    rows = whole_rows(max(extended.size, table.shape[0]))
    config = native_config.native_config(
        parts.config, tower_config, form, rows=rows, tokens=extended.ids, precision=precision
    )
    published = read_config(parts.texts / "generation_config.json")
    pad = extended.ids[native_config.PAD_TOKEN]
    documents = {
        "config.json": config,
        "generation_config.json": native_config.generation_config(parts.config, published, pad),
        "preprocessor_config.json": native_config.image_processor(form),
        "processor_config.json": native_config.processor(form),
        "tokenizer_config.json": tokenizer_config(own, extended.data, stem=form.stem),
    }
    texts = {name: _document(value) for name, value in documents.items()}
    texts |= {"tokenizer.json": extended.data, "chat_template.jinja": chat_template.encode()}
    model = parts.texts / "tokenizer.model"
    if model.is_file():
        texts["tokenizer.model"] = read_small(model)
    with _whole(parts, tower_dir, writable=writable) as tensors:
        rules = TableRows(kept=extended.trained, total=rows, filler=extended.filler)
        named = [one for t in _needed(tensors, form) if (one := _named(t, rules)) is not None]
        yield NativeFolder(texts=texts, tensors=named)


def to_native(
    parts: Parts,
    tower_dir: Path,
    out_dir: Path,
    *,
    chat_template: str,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> list[Path]:
    """Write a checkpoint as a transformers-native folder, and return the files.

    Elements keep their type and bytes; rows of the embedding table and the output layer that no
    word was trained for, `<image>` and `<pad>` among them, are copies of the row of a word that no
    answer has (`<unk>`), so that none is ever likelier than that.
    The same input gives the same bytes.

    Args:
        parts: see `native_folder`.
        tower_dir: see `native_folder`.
        out_dir: an existing folder; files of the same names are replaced.
        chat_template: see `native_folder`.
        shard_bytes: upper bound of each weight file.
        progress: told the bytes as they are written.

    Raises:
        CheckpointError: the checkpoint is damaged, or has a part that transformers' LLaVA has not.
        SpaceError: the disk is full.
    """
    with native_folder(parts, tower_dir, chat_template=chat_template) as folder:
        paths = write_shards(folder.tensors, out_dir, shard_bytes=shard_bytes, progress=progress)
        return [*write_texts(folder.texts, out_dir), *paths]


def to_native_texts(
    parts: Parts, tower_dir: Path, out_dir: Path, *, chat_template: str
) -> list[Path]:
    """Write the small files of a transformers-native folder alone, and return them.

    An engine that reads weights in the original layout has tokenizer and processor from there.

    Args:
        parts: see `native_folder`.
        tower_dir: see `native_folder`.
        out_dir: an existing folder.
        chat_template: see `native_folder`.

    Raises:
        CheckpointError: the checkpoint has a part that transformers' LLaVA has not.
    """
    with native_folder(parts, tower_dir, chat_template=chat_template) as folder:
        return write_texts(folder.texts, out_dir)


@contextmanager
def _whole(parts: Parts, tower_dir: Path, *, writable: bool) -> Iterator[list[SourceTensor]]:
    """Return the checkpoint's tensors and the tower's: its own where it was trained along."""
    if parts.vision_inside:
        yield list(parts.tensors)
        return
    kept = [tensor for tensor in parts.tensors if not tensor.entry.name.startswith(INSIDE)]
    with tower_tensors(tower_dir, writable=writable) as tower:
        yield [*kept, *tower]


def _needed(tensors: Iterable[SourceTensor], form: NativeForm) -> Iterator[SourceTensor]:
    """Yield the tensors without those of the tower that the class has no place for."""
    vision = form.vision_shapes()
    for tensor in tensors:
        inside = tensor.entry.name.removeprefix(INSIDE)
        if inside == tensor.entry.name or inside in vision:
            yield tensor


def _named(tensor: SourceTensor, rows: TableRows) -> SourceTensor | None:
    name = exchange_name(tensor.entry.name)
    if name is None:
        return None
    kept = min(rows.kept, tensor.entry.shape[0])
    changed = tensor.entry.name in _TABLES and kept < rows.total
    return renamed(with_rows(tensor, replace(rows, kept=kept)) if changed else tensor, name)


def read_tokenizer(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Return tokenizer.json, made where there is none, and tokenizer_config.json."""
    config = read_config(folder / "tokenizer_config.json")
    published = folder / "tokenizer.json"
    if published.is_file():
        return read_small(published), config
    if (folder / "vocab.json").is_file() and not (folder / "tokenizer.model").is_file():
        return _document(joined_tokenizer(folder)), config
    return made_tokenizer(folder), config


def _document(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
