"""An engine behind its fence: what it needs is looked up, then nothing else is to be had."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from llava_pack.checkpoint.kind import TowerChoice
from llava_pack.checkpoint.model import read_checkpoint
from llava_pack.engine.fence.blame import blamed, passed_over
from llava_pack.engine.fence.home import move_in
from llava_pack.engine.fence.place import make_devices, this_place, with_targets
from llava_pack.engine.fence.plan import engine_fence
from llava_pack.engine.fence.raising import raise_fence
from llava_pack.engine.fence.value import OFF, FenceMode, Standing
from llava_pack.engine.port import Engine
from llava_pack.format.errors import PackError

_log = logging.getLogger(__name__)


class Enclosure:
    """The fence of one engine process.

    Args:
        model: the folder of a checkpoint.
        tower: the one given for it, if any.
        base: the one given for it, if any.
        choice: which tower, where a person chose.
        home: a private folder to be made.
        device: what the engine is to compute on; only `cpu` rules a GPU out.
        mode: whether there is a fence, and whether it has to be whole.
    """

    def __init__(
        self,
        model: Path,
        *,
        tower: Path | None,
        base: Path | None,
        choice: TowerChoice | None = None,
        home: Path,
        device: str,
        mode: FenceMode,
    ) -> None:
        self._model, self._tower, self._base = model, tower, base
        self._choice, self._home = choice, home
        self._device = device
        self._mode = mode
        self._standing = OFF
        self._gpu = False
        self._unreadable: PackError | None = None

    def enter(self) -> Standing:
        """Raise the fence, before there are threads, and return which one stands.

        Raises:
            ServeError: it is required and not whole, or the private folder cannot be made.
        """
        if self._mode == "off":
            return self._standing
        if self._device != "cpu":
            make_devices()
        place = this_place(os.environ)
        self._gpu = self._device != "cpu" and place.has_gpu
        folders = self._folders()
        move_in(self._home)
        fence = engine_fence(place, with_targets(folders), self._home, gpu=self._gpu)
        self._standing = raise_fence(fence, required=self._mode == "required")
        _log.info("fence: %s", self._standing)
        return self._standing

    def load(self, load: Callable[[], Engine]) -> Engine:
        """Return what `load` returns; where it fails, say whether the fence may be why.

        Raises:
            PackError: the model cannot be loaded.
        """
        if self._unreadable is not None:
            raise self._unreadable
        try:
            engine = load()
        except (PackError, PermissionError) as error:
            told = blamed(error, self._standing, gpu=self._gpu)
            if told is error:
                raise
            raise told from error
        if line := passed_over(engine.info.device, gpu=self._gpu and self._standing.stands):
            _log.warning("%s", line)
        return engine

    def _folders(self) -> list[Path]:
        """Return the folders of the model; what is wrong with them is told when it is loaded."""
        given = [path for path in (self._model, self._tower, self._base) if path is not None]
        try:
            found = read_checkpoint(self._model, self._tower, self._base, self._choice)
        except PackError as error:
            self._unreadable = error
            return given
        return [*given, *found.folders]
