"""How long work tells a person where it stands: the port between code and console."""

from typing import Protocol


class Progress(Protocol):
    """Receives events of long work; implementations are thread-safe and never fail."""

    def start(self, what: str, total_bytes: int | None) -> None:
        """Begin a phase; `total_bytes` None where the amount is unknown."""

    def advance(self, size_bytes: int) -> None:
        """Count bytes done in the current phase."""

    def note(self, text: str) -> None:
        """Say one line."""

    def done(self) -> None:
        """End the phase."""


class Silent:
    """A Progress that says nothing, for callers that do not care."""

    def start(self, what: str, total_bytes: int | None) -> None:
        """Ignore the phase."""

    def advance(self, size_bytes: int) -> None:
        """Ignore the bytes."""

    def note(self, text: str) -> None:
        """Ignore the line."""

    def done(self) -> None:
        """Ignore the end."""
