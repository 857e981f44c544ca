"""What one who starts an engine has to know of the other machines that hold its model."""

from typing import Protocol


class Others(Protocol):
    """The other machines: they begin and end their part with each start of the engine here."""

    @property
    def missing(self) -> str:
        """Return what is waited for before the engine can start, empty for nothing."""

    @property
    def lost(self) -> str:
        """Return why the model is no longer whole since `begin`, empty while it is."""

    def begin(self) -> None:
        """Have all others start their part."""

    def dismiss(self) -> None:
        """Have all others end their part; a second call does nothing."""


class Alone:
    """Nobody else: the model is on this machine."""

    missing = ""
    lost = ""

    def begin(self) -> None:
        """Do nothing."""

    def dismiss(self) -> None:
        """Do nothing."""
