"""Weight files of either kind, opened by what their name says they are."""

from pathlib import Path

from llava_pack.checkpoint.pickle_file import open_pickle
from llava_pack.checkpoint.safetensors_file import SafetensorsFile
from llava_pack.checkpoint.tensors import TensorFile


def open_weights(path: Path, *, writable: bool = False) -> TensorFile:
    """Open a `.safetensors`, or a published pickle through the restricted reader.

    Args:
        path: the file.
        writable: hand out views that may be written to, which torch prefers; the file never
            changes.

    Raises:
        CheckpointError: the file is damaged or of another kind.
    """
    if path.suffix == ".safetensors":
        return SafetensorsFile(path, writable=writable)
    return open_pickle(path, writable=writable)
