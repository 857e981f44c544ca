"""The slim tower: a CLIP repository reduced to what LLaVA reads of it."""

from pathlib import Path

from llava_pack.checkpoint.config import parse_config, read_small
from llava_pack.checkpoint.defects import shown
from llava_pack.checkpoint.keymap import is_weight
from llava_pack.checkpoint.kind import TOWER_TYPES
from llava_pack.convert.output import write_texts
from llava_pack.convert.shards import opened, weight_paths, write_shards
from llava_pack.format.errors import CheckpointError
from llava_pack.format.progress import Progress

_TEXTS = ("config.json", "preprocessor_config.json")
_MAX_TEXT_BYTES = 1 << 20


def slim_tower(tower_dir: Path, out_dir: Path, progress: Progress | None = None) -> list[Path]:
    """Write config, preprocessor config and the `vision_model.*` tensors, and return the files.

    Half of a CLIP repository is its text side, which LLaVA never runs. The configurations are
    copied byte for byte: both transformers and LLaVA's own code find the vision part in them.

    Args:
        tower_dir: a CLIP repository, pickled or safetensors.
        out_dir: an existing folder; files of the same names are replaced.
        progress: told the bytes as they are written.

    Raises:
        CheckpointError: it is no CLIP repository, or a file of it is missing or damaged.
        SpaceError: the disk is full.
    """
    texts = {name: _text(tower_dir, name) for name in _TEXTS}
    config = parse_config(texts["config.json"])
    if config.get("model_type") not in TOWER_TYPES:
        raise CheckpointError(
            f"config.json has model_type {shown(config.get('model_type'))}, expected 'clip'",
            subject=tower_dir.name,
            hint="use the CLIP repository that mm_vision_tower names",
        )
    with opened(weight_paths(tower_dir)) as tensors:
        kept = [
            tensor
            for tensor in tensors
            if tensor.entry.name.startswith("vision_model.") and is_weight(tensor.entry.name)
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
        raise CheckpointError(f"{name} is missing, expected a CLIP repository", subject=folder.name)
    return read_small(path, max_bytes=_MAX_TEXT_BYTES)
