"""How a run is told to end: in good order by the first signal, at once by the second.

A closed terminal is a first signal, and never a second one.
"""

import asyncio
import signal

from llava_pack.format.progress import Progress


class Ending:
    """Hears the signals of a run.

    Args:
        progress: hears what a person can do about it.
    """

    def __init__(self, progress: Progress) -> None:
        self.told = asyncio.Event()
        """Set by the first signal."""
        self.forced = asyncio.Event()
        """Set by the second."""
        self._progress = progress
        self._signal = 0

    def listen(self) -> None:
        """Take the signals of this process, on the running loop."""
        loop = asyncio.get_running_loop()
        for number in _ending_signals():
            loop.add_signal_handler(number, self._hear, number)

    @property
    def exit_code(self) -> int:
        """What the process ends with: a signal's code only where it had to be forced."""
        return 128 + self._signal if self.forced.is_set() else 0

    def _hear(self, number: int) -> None:
        if self.told.is_set():
            if number != signal.SIGHUP:  # a terminal that closes says so more than once
                self.forced.set()
            return
        self._signal = number
        self.told.set()
        self._progress.note("shutting down; press Ctrl-C again to stop immediately")


def _ending_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that shut a server down; a closed terminal's not where `nohup` is used."""
    hang_up = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    return signal.SIGINT, signal.SIGTERM, *hang_up
