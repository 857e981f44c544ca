"""What systemd is told: ready, a status line, more time while loading, stopping, and the watchdog.

Nothing is told where no systemd asks for it. A plain datagram socket is all that it takes.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

import contextlib
import os
import socket
from collections.abc import MutableMapping
from typing import Self

_SOCKET, _PERIOD, _PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
_EXTEND_S = 60
_PATIENCE_S = 1.0
"""systemd reads at once; a full queue must not keep an answer waiting for longer."""


class Notifier:
    """Tells systemd; use `from_environment`.

    Args:
        address: of the socket, `@` for an abstract one; None tells nobody.
        watchdog_s: how long systemd waits for a sign of life; None where it does not.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = address
        self.every_s = watchdog_s / 3 if watchdog_s else None
        """How often a sign of life is due; None where nobody waits for one."""

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """Return the notifier of this process; its variables are taken out of the environment.

        What this process starts must not speak to systemd in its name.
        """
        address = environment.pop(_SOCKET, None)
        period, pid = environment.pop(_PERIOD, ""), environment.pop(_PID, "")
        ours = pid in {"", str(os.getpid())}
        watchdog_s = int(period) / 1e6 if ours and period.isdigit() and int(period) else None
        return cls(address or None, watchdog_s)

    def ready(self, status: str) -> None:
        """Tell that every model answers."""
        self._tell(f"READY=1\nSTATUS={_line(status)}")

    def loading(self, status: str) -> None:
        """Tell what is loaded, and that it takes a while yet."""
        self._tell(f"STATUS={_line(status)}\nEXTEND_TIMEOUT_USEC={_EXTEND_S * 1_000_000}")

    def status(self, status: str) -> None:
        """Tell one line for people."""
        self._tell(f"STATUS={_line(status)}")

    def stopping(self, within_s: float) -> None:
        """Tell that it ends, and how long that may take."""
        self._tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int((within_s + _EXTEND_S) * 1e6)}")

    def alive(self) -> None:
        """Give the sign of life that the watchdog waits for."""
        self._tell("WATCHDOG=1")

    def _tell(self, message: str) -> None:
        if self._address is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out,
        ):
            out.settimeout(_PATIENCE_S)
            out.sendto(message.encode(), address)


def _line(text: str) -> str:
    return " ".join(text.split())
