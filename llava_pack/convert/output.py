"""Writing a file so that it is there whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from llava_pack.format.errors import SpaceError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place when the block ends well.

    Raises:
        SpaceError: the disk is full; nothing of the file is left.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise SpaceError(
                "the disk is full", subject=path.name, hint="free some space, then run it again"
            ) from error
        raise
    finally:
        part.unlink(missing_ok=True)
