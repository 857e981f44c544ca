"""Checks left out of a gateway that runs, one at a time: what they hold back must come through."""

import os
from collections.abc import Callable, Mapping

from llava_pack.serve.api import decoders


def _pixels_inside() -> None:
    """Leave out the files that decoded pictures lie in."""
    decoders.__dict__["kept"] = lambda file, size: os.pread(file, size, 0)


MUTATIONS: Mapping[str, Callable[[], None]] = {
    "pixels": _pixels_inside,
}
