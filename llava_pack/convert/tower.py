"""The slim tower: a CLIP or SigLIP repository reduced to what LLaVA reads of it."""

from pathlib import Path

from llava_pack.checkpoint.config import parse_config, read_small
from llava_pack.checkpoint.expected import tower_shapes
from llava_pack.convert.output import write_texts
from llava_pack.convert.shards import opened, weight_paths, write_shards
from llava_pack.format.errors import CheckpointError
from llava_pack.format.progress import Progress

_TEXTS = ("config.json", "preprocessor_config.json")
_MAX_TEXT_BYTES = 1 << 20


def slim_tower(tower_dir: Path, out_dir: Path, progress: Progress | None = None) -> list[Path]:
    """Write config, preprocessor config and the `vision_model.*` tensors, and return the files.

    Half of such a repository is its text side, which LLaVA never runs, nor SigLIP's pooling head.
    The configurations are copied byte for byte: both transformers and LLaVA's own code find the
    vision part in them.

    Args:
        tower_dir: a tower's repository, pickled or safetensors.
        out_dir: an existing folder; files of the same names are replaced.
        progress: told the bytes as they are written.

    Raises:
        CheckpointError: it is no tower's repository, or a file of it is missing or damaged.
        SpaceError: the disk is full.
    """
    texts = {name: _text(tower_dir, name) for name in _TEXTS}
    config = parse_config(texts["config.json"])
    vision = tower_shapes(config)
    with opened(weight_paths(tower_dir)) as tensors:
        kept = [tensor for tensor in tensors if tensor.entry.name in vision]
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
