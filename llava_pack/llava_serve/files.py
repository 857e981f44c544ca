"""What a worker reads of its model, looked up before there is a fence."""

from pathlib import Path

from llava_pack.checkpoint.model import read_checkpoint
from llava_pack.engine.fence.place import with_targets
from llava_pack.format.errors import PackError


def model_files(model_dir: Path) -> tuple[Path, ...]:
    """Return a model's folder, its tower's, and the files elsewhere that links in them lead to.

    What is wrong with a model is told when it is loaded.
    """
    try:
        folders = read_checkpoint(model_dir).folders
    except PackError:
        folders = ()
    return with_targets(dict.fromkeys((model_dir, *folders)))
