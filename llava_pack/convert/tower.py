"""The slim tower: a CLIP repository reduced to what LLaVA reads of it."""

from pathlib import Path

from llava_pack.checkpoint.config import parse_config, read_small
from llava_pack.checkpoint.defects import refuse, shown
from llava_pack.checkpoint.keymap import is_weight
from llava_pack.checkpoint.weight_set import find_weights
from llava_pack.convert.output import whole_file
from llava_pack.convert.shards import opened, write_shards
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
    if config.get("model_type") not in {"clip", "clip_vision_model"}:
        raise CheckpointError(
            f"config.json has model_type {shown(config.get('model_type'))}, expected 'clip'",
            subject=tower_dir.name,
            hint="use the CLIP repository that mm_vision_tower names",
        )
    names = {path.name for path in tower_dir.iterdir() if path.is_file()}
    weights = find_weights(names, lambda name: read_small(tower_dir / name))
    refuse(weights.defects, subject=tower_dir.name)
    with opened([tower_dir / name for name in weights.files]) as tensors:
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
    for name, data in texts.items():
        with whole_file(out_dir / name) as out:
            out.write(data)
    return [*(out_dir / name for name in _TEXTS), *paths]


def _text(folder: Path, name: str) -> bytes:
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{name} is missing, expected a CLIP repository", subject=folder.name)
    return read_small(path, max_bytes=_MAX_TEXT_BYTES)
