"""What a program's fence is planned from and what stands, as they cross between processes."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from llava_pack.engine.fence.value import FenceMode, Standing

FENCE_VARIABLE = "LLAVA_PACK_UPSTREAM_FENCE"
"""Tells a program its bounds."""
HINT = "hint: "
"""Begins the last line of a program that ends by itself: what to do about it."""
_STANDING = "standing.json"
_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What whoever starts a program knows of its fence, and the program itself does not.

    Attributes:
        mode: whether there is one, and whether it has to be whole.
        ports: where the three programs of the run listen.
        files: files and folders of the model, as far as it is read here.
        gpu: whether it is to compute on a GPU.
    """

    mode: FenceMode
    ports: tuple[int, ...]
    files: tuple[Path, ...] = ()
    gpu: bool = False

    def __str__(self) -> str:
        """Return it as it is handed over."""
        return json.dumps({**asdict(self), "files": list(map(str, self.files))})

    @classmethod
    def parse(cls, text: str) -> "Bounds":
        """Return what was handed over.

        >>> given = Bounds(mode="on", ports=(21001,), files=(Path("/m"),))
        >>> Bounds.parse(str(given)) == given
        True
        """
        given = json.loads(text)
        files = tuple(map(Path, given["files"]))
        return cls(**{**given, "ports": tuple(given["ports"]), "files": files})


def tell(standing: Standing, folder: Path) -> None:
    """Write down which fence stands, where whoever started this program looks for it."""
    (folder / _STANDING).write_text(json.dumps(asdict(standing)))


def told(folders: Iterable[tuple[str, Path]]) -> dict[str, Standing]:
    """Return which fence stands around each program that has told it, by its name.

    Args:
        folders: of each program its name and the private folder.
    """
    found: dict[str, Standing] = {}
    for name, folder in folders:
        with suppress(OSError, ValueError, TypeError, OverflowError, RecursionError):
            file = os.open(folder / _STANDING, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(file, "rb") as stream:
                standing = Standing.from_wire(json.loads(stream.read(_MAX_BYTES)))
            found |= {} if standing is None else {name: standing}
    return found
