"""What engines say of themselves, as progress for the person who waits."""

from llava_pack.format.progress import Progress
from llava_pack.serve.port import Status


class Narration:
    """Turns what engines say of themselves into progress for people."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._phase: dict[str, str] = {}
        self._done_bytes = 0

    def take(self, name: str, status: Status) -> None:
        """Show one change."""
        step = f"{status.phase} {status.detail}".strip()
        if self._phase.get(name) != step:
            if self._phase.get(name, "").startswith("loading "):
                self._progress.done()
            self._phase[name] = step
            self._done_bytes = 0
            if status.phase == "loading" and status.detail:
                self._progress.start(f"{name}: {status.detail}", status.total_bytes or None)
            elif status.phase == "restarting":
                self._progress.note(f"{name}: {step}")
        if status.done_bytes > self._done_bytes:
            self._progress.advance(status.done_bytes - self._done_bytes)
            self._done_bytes = status.done_bytes
