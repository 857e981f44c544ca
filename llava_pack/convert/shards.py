"""Published weights of either kind into safetensors shards, tensor by tensor."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from llava_pack.checkpoint.config import read_small
from llava_pack.checkpoint.defects import refuse
from llava_pack.checkpoint.keymap import is_weight
from llava_pack.checkpoint.safetensors_file import SafetensorsWriter
from llava_pack.checkpoint.tensors import TensorEntry, TensorFile
from llava_pack.checkpoint.weight_file import open_weights
from llava_pack.checkpoint.weight_set import find_weights
from llava_pack.convert.output import whole_file, write_texts
from llava_pack.format.errors import CheckpointError
from llava_pack.format.progress import Progress, Silent
from llava_pack.format.text import human_bytes

SHARD_BYTES = 3_900_000_000
INDEX_NAME = "model.safetensors.index.json"
Item = TypeVar("Item")


def to_safetensors(
    model_dir: Path,
    out_dir: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
    left_out: tuple[str, ...] = (),
) -> list[Path]:
    """Write a checkpoint's weights as safetensors shards with their index, and return the files.

    Names and bytes of the tensors stay; what is no weight (rotary tables) is left out. The same
    input gives the same bytes. Memory stays near one tensor.

    Args:
        model_dir: a folder with `model*.safetensors` or `pytorch_model*.bin`.
        out_dir: an existing folder; files of the same names are replaced.
        shard_bytes: upper bound of each file.
        progress: told the bytes as they are written.
        left_out: how names of tensors begin that are not written.

    Raises:
        CheckpointError: a file is missing, damaged (checksums included) or of another kind.
        SpaceError: the disk is full.
    """
    with opened(weight_paths(model_dir)) as tensors:
        kept = [
            tensor
            for tensor in tensors
            if is_weight(tensor.entry.name) and not tensor.entry.name.startswith(left_out)
        ]
        return write_shards(kept, out_dir, shard_bytes=shard_bytes, progress=progress)


def weight_paths(folder: Path) -> list[Path]:
    """Return a folder's weight files in order.

    Raises:
        CheckpointError: there are none, or one that an index names is missing.
    """
    names = {path.name for path in folder.iterdir() if path.is_file()}
    weights = find_weights(names, lambda name: read_small(folder / name))
    refuse(weights.defects, subject=folder.name)
    if not weights.files:
        raise CheckpointError(
            "this folder contains no weights, expected model*.safetensors or pytorch_model*.bin",
            subject=folder.name,
        )
    return [folder / name for name in weights.files]


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor to write under `entry.name`, and how to get at its bytes."""

    entry: TensorEntry
    read: Callable[[], memoryview]
    release: Callable[[], None]


@contextmanager
def opened(paths: Iterable[Path], *, writable: bool = False) -> Iterator[list[SourceTensor]]:
    """Open weight files and hand out their tensors, in order, until the block ends.

    Args:
        paths: `.safetensors` and published pickles.
        writable: see `open_weights`.

    Raises:
        CheckpointError: a file is damaged, or two of them hold a tensor of the same name.
    """
    tensors: list[SourceTensor] = []
    where: dict[str, str] = {}
    with ExitStack() as stack:
        for path in paths:
            file = open_weights(path, writable=writable)
            stack.callback(file.close)
            for entry in file.entries:
                if entry.name in where:
                    raise CheckpointError(
                        f"tensor {entry.name!r} is also in {where[entry.name]}", subject=path.name
                    )
                where[entry.name] = path.name
                tensors.append(_source(file, entry))
        yield tensors


def renamed(tensor: SourceTensor, name: str) -> SourceTensor:
    """Return the tensor under another name."""
    return replace(tensor, entry=replace(tensor.entry, name=name))


def _source(file: TensorFile, entry: TensorEntry) -> SourceTensor:
    def read() -> memoryview:
        file.verify(entry)
        return file.read(entry)

    return SourceTensor(entry, read, lambda: file.release(entry))


def write_shards(
    tensors: Sequence[SourceTensor],
    out_dir: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> list[Path]:
    """Write tensors into as few shards as their order allows, and an index where there are more.

    Raises:
        CheckpointError: a tensor alone is larger than a shard.
        SpaceError: the disk is full.
    """
    progress = progress or Silent()
    shards = plan_shards([tensor.entry for tensor in tensors], shard_bytes)
    sources = {tensor.entry.name: tensor for tensor in tensors}
    total_bytes = sum(entry.size_bytes for shard in shards for entry in shard)
    progress.start("writing safetensors", total_bytes)
    paths = []
    for number, shard in enumerate(shards, start=1):
        path = out_dir / shard_name(number, len(shards))
        write_file(path, [sources[entry.name] for entry in shard], progress.advance)
        paths.append(path)
    if len(shards) > 1:
        places = {
            e.name: path.name for path, shard in zip(paths, shards, strict=True) for e in shard
        }
        paths += write_index(places, out_dir, total_bytes)
    progress.done()
    return paths


def write_file(
    path: Path,
    tensors: Sequence[SourceTensor],
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write one safetensors file; it is there whole or not at all.

    Raises:
        SpaceError: the disk is full.
    """
    sources = {tensor.entry.name: tensor for tensor in tensors}
    with whole_file(path) as out:
        writer = SafetensorsWriter(out, [tensor.entry for tensor in tensors])
        writer.write_all(
            lambda entry: sources[entry.name].read(),
            on_bytes,
            lambda entry: sources[entry.name].release(),
        )


def plan_shards(
    entries: Iterable[TensorEntry], shard_bytes: int
) -> tuple[tuple[TensorEntry, ...], ...]:
    """Pack tensors into consecutive shards, in their order; a tensor is never cut.

    Args:
        entries: names, types and shapes, as they will be written.
        shard_bytes: upper bound of each shard, header included.

    Raises:
        CheckpointError: one tensor alone is larger than a shard.
    """
    sized = [(entry.name, entry.size_bytes + _header_bytes(entry), entry) for entry in entries]
    return tuple(map(tuple, in_shards(sized, shard_bytes, empty_bytes=_EMPTY_HEADER_BYTES)))


def in_shards(
    items: Iterable[tuple[str, int, Item]], shard_bytes: int, *, empty_bytes: int = 0
) -> list[list[Item]]:
    """Divide what is written into consecutive shards, in its order.

    Args:
        items: each with its name and the bytes that it takes.
        shard_bytes: upper bound of each shard.
        empty_bytes: what a shard takes by itself.

    Raises:
        CheckpointError: one alone is larger than a shard.
    """
    shards: list[list[Item]] = [[]]
    filled = empty_bytes
    for name, size_bytes, item in items:
        if empty_bytes + size_bytes > shard_bytes:
            raise CheckpointError(
                f"tensor {name!r} takes {human_bytes(size_bytes)}, "
                f"the limit is {human_bytes(shard_bytes)}"
            )
        if filled + size_bytes > shard_bytes:
            shards.append([])
            filled = empty_bytes
        shards[-1].append(item)
        filled += size_bytes
    return shards


_EMPTY_HEADER_BYTES = 128
"""Length, braces, metadata and padding of a header."""


def _header_bytes(entry: TensorEntry) -> int:
    """Return an upper bound of an entry's part of the header: its text and two offsets."""
    name = len(json.dumps(entry.name, ensure_ascii=False).encode())
    shape = len(json.dumps(entry.shape))
    return name + shape + len(entry.dtype) + len('"dtype":"","shape":,"data_offsets":[,],{}:') + 32


def shard_name(number: int, count: int) -> str:
    """Return a shard's file name.

    >>> shard_name(1, 1), shard_name(2, 3)
    ('model.safetensors', 'model-00002-of-00003.safetensors')
    """
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def write_index(places: Mapping[str, str], out_dir: Path, total_bytes: int) -> list[Path]:
    """Write the index that says in which file each tensor is, and return it.

    Raises:
        SpaceError: the disk is full.
    """
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(places)}
    text = json.dumps(index, indent=2, sort_keys=True).encode() + b"\n"
    return write_texts({INDEX_NAME: text}, out_dir)
