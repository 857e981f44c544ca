"""Where the vision tower of a bare folder is."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from llava_pack.checkpoint.config import vision_tower_id
from llava_pack.checkpoint.defects import shown
from llava_pack.format.errors import CheckpointError


def resolve_vision_tower(
    model_dir: Path, config: Mapping[str, Any], override: Path | None = None
) -> Path:
    """Return the folder of the tower that a checkpoint in the original layout needs.

    The one given; else `mm_vision_tower` as an existing path, absolute or relative to the model's
    folder; else a folder beside the model's that is called like the id's last part.

    Raises:
        CheckpointError: none of them holds a config.json; the message lists where it looked.
    """
    looked: list[str] = []
    for candidate in _candidates(model_dir, config, override):
        if (candidate / "config.json").is_file():
            return candidate.resolve()
        looked.append(str(candidate))
    named = vision_tower_id(config)
    places = "; looked in " + ", ".join(looked) if looked else ""
    raise CheckpointError(
        f"the vision tower was not found: mm_vision_tower is {shown(named)}{places}",
        subject=model_dir.name,
        hint="download it and pass its folder with --vision-tower DIR",
    )


def _candidates(
    model_dir: Path, config: Mapping[str, Any], override: Path | None
) -> Iterator[Path]:
    if override is not None:
        yield override
        return
    named = vision_tower_id(config)
    if named is None:
        return
    model_dir = model_dir.absolute()
    yield model_dir / named
    last = PurePosixPath(named.replace("\\", "/")).name
    if last not in {"", ".."}:
        yield model_dir.parent / last
