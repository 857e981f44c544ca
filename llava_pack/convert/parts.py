"""A checkpoint taken apart: its configuration, its tensors by their original names, its texts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.config import parse_config, read_small
from llava_pack.checkpoint.conformance import model_shapes
from llava_pack.checkpoint.keymap import INSIDE, is_weight, tower_name
from llava_pack.checkpoint.kind import trains_tower
from llava_pack.checkpoint.pictures import PREPROCESSORS, preprocessor_of
from llava_pack.convert.shards import SourceTensor, opened, renamed, weight_paths
from llava_pack.format.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a LLaVA consists of, while its files are open.

    Attributes:
        config: in the original keys.
        tensors: original names, without what is no weight.
        texts: the folder with the tokenizer's files and generation_config.json.
    """

    config: Mapping[str, Any]
    tensors: Sequence[SourceTensor]
    texts: Path

    @property
    def vision_inside(self) -> bool:
        """Whether the checkpoint's own vision tensors are the ones that LLaVA uses."""
        inside = any(one.entry.name.startswith(INSIDE) for one in self.tensors)
        return inside and trains_tower(self.config)


@contextmanager
def original_parts(model_dir: Path, *, writable: bool = False) -> Iterator[Parts]:
    """Open a checkpoint in the original layout, until the block ends.

    Args:
        model_dir: its folder.
        writable: the views of tensors may be given to torch.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    with opened(weight_paths(model_dir), writable=writable) as tensors:
        config = read_json(model_dir / "config.json")
        yield Parts(config=config, tensors=needed(tensors, config), texts=model_dir)


def needed(tensors: Iterable[SourceTensor], config: Mapping[str, Any]) -> list[SourceTensor]:
    """Return the tensors that are part of a model; others would stop loaders that are strict.

    Raises:
        CheckpointError: a value of the configuration is none.
    """
    shapes = model_shapes(config)
    return [one for one in tensors if one.entry.name in shapes or one.entry.name.startswith(INSIDE)]


@contextmanager
def tower_tensors(tower_dir: Path, *, writable: bool = False) -> Iterator[list[SourceTensor]]:
    """Open a tower's repository and hand out its vision tensors as if inside a checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    with opened(weight_paths(tower_dir), writable=writable) as tensors:
        yield [
            renamed(tensor, f"{INSIDE}{name}")
            for tensor in tensors
            if (name := tower_name(tensor.entry.name)).startswith("vision_model.")
            and is_weight(name)
        ]


def picture_settings(folder: Path) -> Mapping[str, Any]:
    """Return how a folder says that pictures are prepared.

    Raises:
        CheckpointError: no file says it, or one is malformed.
    """
    there = {name: read_json(folder / name) for name in PREPROCESSORS if (folder / name).is_file()}
    found = preprocessor_of(there)
    return found or read_json(folder / PREPROCESSORS[0])


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file of a checkpoint.

    Raises:
        CheckpointError: it is absent or malformed.
    """
    if not path.is_file():
        raise CheckpointError("is missing", subject=path.name)
    return parse_config(read_small(path), subject=path.name)
