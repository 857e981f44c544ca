"""The fence of one of LLaVA's programs, raised by the launcher before anything foreign is imported.

The three speak TCP to each other, so it lets sockets through that an engine's does not, bounded by
the ports of the run. Otherwise it is an engine's; only the worker gets the model, and a GPU.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from llava_pack.engine.fence.home import move_in
from llava_pack.engine.fence.place import Place, make_devices, this_place
from llava_pack.engine.fence.plan import engine_fence
from llava_pack.engine.fence.raising import raise_fence
from llava_pack.engine.fence.value import OFF, Fence, Standing
from llava_pack.format.errors import ServeError, reason_of
from llava_pack.llava_serve.bounds import Bounds, tell

_HOME = "home"


def upstream_fence(
    place: Place, files: Iterable[Path], folder: Path, *, ports: Iterable[int], gpu: bool
) -> Fence:
    """Return the fence of one of LLaVA's own programs: an engine's, and TCP at the run's ports.

    Args:
        place: where it runs.
        files: what of the model it reads; nothing for the controller and the page.
        folder: the private one, in which it stands.
        ports: where the three programs of the run listen.
        gpu: whether it may compute on a GPU.
    """
    fence = engine_fence(place, files, folder, gpu=gpu)
    return replace(fence, sockets="unix and tcp" if gpu else "tcp", ports=tuple(ports))


def enter_upstream_fence(bounds: Bounds, folder: Path) -> Standing:
    """Raise the fence around this process, before there are threads, and tell which one stands.

    Args:
        bounds: what it is planned from.
        folder: private, the only one to write in; HOME and TMPDIR come to lie in it.

    Raises:
        ServeError: it is required and not whole, or the folder cannot be written.
    """
    try:
        standing = OFF if bounds.mode == "off" else _raised(bounds, folder)
        tell(standing, folder)
    except OSError as error:
        raise ServeError(f"cannot be written: {reason_of(error)}", subject=str(folder)) from error
    return standing


def _raised(bounds: Bounds, folder: Path) -> Standing:
    if bounds.gpu:
        make_devices()
    place = this_place(os.environ)
    move_in(folder / _HOME)
    gpu = bounds.gpu and place.has_gpu
    fence = upstream_fence(place, bounds.files, folder, ports=bounds.ports, gpu=gpu)
    return raise_fence(fence, required=bounds.mode == "required")
