"""The gateway under supervision: kept running, told how the models stand, and heard.

It is the process that strangers talk to. So it is watched from outside its event loop: one that
hangs or dies is replaced by another at the same port, and who connects meanwhile only waits.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace

from llava_pack.serve.feed import Beat, Bulletin, News, Start
from llava_pack.serve.supervision.gateway_process import GatewayLife, GatewayPlan
from llava_pack.serve.supervision.lifetime import Supervised

_log = logging.getLogger(__name__)
_TOLD_S = 10.0
_MOST_LEFT, _LEFT_VALUES, _ID_CHARS = 10_000, 3, 32
"""Of how many keys what is left is passed on, and what each is: a gateway may be in wrong hands."""


class SupervisedGateway(Supervised[GatewayLife]):
    """The gateway process of a run.

    Args:
        plan: how it is started.
        settings: how it answers.
        news: returns how the models stand now.
        note: hears what goes wrong, a line for people.
    """

    def __init__(
        self,
        plan: GatewayPlan,
        settings: Start,
        news: Callable[[], tuple[News, ...]],
        note: Callable[[str], None],
    ) -> None:
        self.answers = asyncio.Event()
        """Set when it first listened at the port."""
        super().__init__(self.answers, plan.care.rests_s)
        self._plan = plan
        self._settings = settings
        self._news = news
        self._note = note
        self._beat: Beat | None = None
        self._heard = asyncio.Event()
        self._number = 0
        self._left: dict[str, tuple[float, ...]] = {}
        self._ending = False

    @property
    def stalled(self) -> bool:
        """Return whether it gives no sign of life; one that is started again is waited for."""
        return self._life is not None and self._life.stalled

    def in_flight(self, engine: int) -> int:
        """Return how many requests of an engine are being answered.

        One that has not heard yet what it was told last may take another: that counts as one.
        """
        if self._beat is None:
            return 0
        return self._beat.in_flight.get(engine, 0) if self._beat.seen >= self._number else 1

    def changed(self) -> None:
        """Tell it at once how the models stand."""
        self._number += 1
        if self._life is not None:
            self._life.changed()

    async def told(self) -> None:
        """Wait until it goes by how the models stand now; where it hangs, not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TOLD_S):
                while self._beat is not None and not self._goes_by_it(self._beat):
                    self._heard.clear()
                    await self._heard.wait()

    async def stop(self, *, force: bool = False) -> None:
        """End the gateway process: what it still answers is cut soon, at once with `force`."""
        self._ending = True
        await super().stop(force=force)

    def _begin(self) -> GatewayLife:
        settings = replace(self._settings, restarts=self._restarts.count, left=dict(self._left))
        return GatewayLife(self._plan, settings, self._bulletin, self._hear)

    def _ended(self) -> None:
        self._beat = None
        self._heard.set()

    def _bulletin(self) -> Bulletin:
        return Bulletin(number=self._number, models=self._news(), ending=self._ending)

    def _goes_by_it(self, beat: Beat) -> bool:
        ready = {news.engine for news in self._news() if news.status.phase == "ready"}
        return beat.seen >= self._number and ready <= set(beat.reached)

    def _hear(self, beat: Beat) -> None:
        for key_id, told in beat.left.items():
            if len(told) == _LEFT_VALUES and len(key_id) <= _ID_CHARS:
                self._left.pop(key_id, None)
                self._left[key_id] = told
        while len(self._left) > _MOST_LEFT:  # the latest are kept
            del self._left[next(iter(self._left))]
        if beat.listening:
            self._beat = beat
            self.answers.set()
            self._heard.set()

    def _tell_rest(self, cause: str, rest_s: float) -> None:
        _log.warning("%s; restarting in %g s", cause, rest_s)
        if self._life is not None and (last_words := self._life.last_words().strip()):
            _log.warning("its last output: %s", last_words)
        self._note(f"{cause}; restarting in {rest_s:g} s")
