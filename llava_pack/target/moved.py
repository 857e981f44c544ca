"""What `bin/llava-pack` runs in a prefix that was moved, before anything else there can."""

from pathlib import Path

from llava_pack.format.errors import PackError
from llava_pack.target import failures, journal, relocation
from llava_pack.target.main import Lines


def run(prefix: str) -> int:
    """Put the prefix in order under its lock, and return the exit code."""
    place = Path(prefix)
    lines = Lines()
    try:
        with failures.explained(place), journal.locked(place):
            relocation.settle(place, lines)
    except PackError as error:
        lines.note(f"error: {error}")
        lines.note(f"hint: {error.hint}")
        return int(error.exit_code)
    return 0
