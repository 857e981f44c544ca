"""The slim tower: a CLIP or SigLIP repository reduced to what LLaVA reads of it."""

import json
from pathlib import Path

from llava_pack.checkpoint.config import parse_config, read_small
from llava_pack.checkpoint.expected import tower_shapes
from llava_pack.checkpoint.keymap import tower_name
from llava_pack.convert.output import write_texts
from llava_pack.convert.parts import picture_settings
from llava_pack.convert.shards import opened, renamed, weight_paths, write_shards
from llava_pack.format.errors import CheckpointError
from llava_pack.format.progress import Progress

_CONFIG, _PICTURES = "config.json", "preprocessor_config.json"
_MAX_TEXT_BYTES = 1 << 20


def slim_tower(tower_dir: Path, out_dir: Path, progress: Progress | None = None) -> list[Path]:
    """Write config, preprocessor config and the `vision_model.*` tensors, and return the files.

    Half of such a repository is its text side, which LLaVA never runs, nor SigLIP's pooling head.
    The configurations are copied byte for byte: both transformers and LLaVA's own code find the
    vision part in them. What transformers 5 writes into processor_config.json gets the file that
    LLaVA's own code looks for.

    Args:
        tower_dir: a tower's repository, pickled or safetensors.
        out_dir: an existing folder; files of the same names are replaced.
        progress: told the bytes as they are written.

    Raises:
        CheckpointError: it is no tower's repository, or a file of it is missing or damaged.
        SpaceError: the disk is full.
    """
    texts = {_CONFIG: _text(tower_dir, _CONFIG), _PICTURES: _pictures(tower_dir)}
    vision = tower_shapes(parse_config(texts[_CONFIG]))
    with opened(weight_paths(tower_dir)) as tensors:
        kept = [
            renamed(tensor, name)
            for tensor in tensors
            if (name := tower_name(tensor.entry.name)) in vision
        ]
        if not kept:
            raise CheckpointError(
                "this folder contains no vision_model.* tensors", subject=tower_dir.name
            )
        paths = write_shards(kept, out_dir, progress=progress)
    return [*write_texts(texts, out_dir), *paths]


def _text(folder: Path, name: str) -> bytes:
    path = folder / name
    if not path.is_file():
        raise CheckpointError(
            f"{name} is missing, expected a CLIP or SigLIP repository", subject=folder.name
        )
    return read_small(path, max_bytes=_MAX_TEXT_BYTES)


def _pictures(folder: Path) -> bytes:
    """Return preprocessor_config.json, made of processor_config.json where that holds it."""
    if (folder / _PICTURES).is_file() or not (folder / "processor_config.json").is_file():
        return _text(folder, _PICTURES)
    return json.dumps(picture_settings(folder), indent=2).encode() + b"\n"
