"""Writing a file so that it is there whole or not at all."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from llava_pack.format import files
from llava_pack.format.errors import SpaceError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place when the block ends well.

    Raises:
        SpaceError: the disk is full; nothing of the file is left.
    """
    try:
        with files.replacing(path) as out:
            yield out
    except OSError as error:
        if error.errno not in files.FULL:
            raise
        raise SpaceError(
            "the disk is full", subject=path.name, hint="free some space, then run it again"
        ) from error


def write_texts(texts: Mapping[str, bytes], out_dir: Path) -> list[Path]:
    """Write small files and return them.

    Raises:
        SpaceError: the disk is full.
    """
    for name, data in texts.items():
        with whole_file(out_dir / name) as out:
            out.write(data)
    return [out_dir / name for name in texts]
