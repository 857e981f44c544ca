"""A bundle that comes on one medium after the other, in any order."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from llava_pack.format.errors import InstallError, IntegrityError, SignatureError, UsageError
from llava_pack.format.progress import Progress
from llava_pack.target import installer
from llava_pack.target.installer import InstallRequest, Outcome
from llava_pack.target.need import IncompleteError

Ask = Callable[[str], Path | None]
"""Asks a person, in these words, for a medium: its folder, `SAME` for the last one, None for no
more."""
SAME = Path()


def typed_folder(answer: str, start: Path) -> Path:
    """Return the folder that a person typed as in a shell: quoted, below the home, or relative.

    >>> typed_folder("'/media/my stick'", Path("/home")).as_posix()
    '/media/my stick'
    """
    try:
        words = shlex.split(answer)
    except ValueError:
        words = [answer.strip()]
    if not words:
        return SAME
    return start / Path(words[0] if len(words) == 1 else answer.strip()).expanduser()


def asked(media: Sequence[int]) -> str:
    """Return how a person is asked for a medium, of those that are still to be read.

    >>> asked([2, 3])
    'insert medium 2 and press Enter, or type its folder; Ctrl-D ends this:'
    """
    for number in media:
        return f"insert medium {number} and press Enter, or type its folder; Ctrl-D ends this:"
    return "insert the next medium and press Enter, or type its folder; Ctrl-D ends this:"


def collect(request: InstallRequest, ask: Ask, progress: Progress) -> Outcome:
    """Take what is good on each medium into the store; the last one completes the installation.

    Raises:
        IncompleteError: something is still missing, and no more media come now.
        PackError: as `installer.install`.
    """
    incomplete: IncompleteError | None = None
    good = wanted = request
    while True:
        try:
            return installer.install(wanted, progress)
        except IncompleteError as error:
            incomplete = error
            good = wanted
            for defect in error.bad:
                progress.note(f"! {defect}")
            progress.note(error.still)
        except (InstallError, IntegrityError, SignatureError, UsageError) as error:
            if incomplete is None:
                raise
            progress.note(f"! {error}")
        folder = ask(asked(incomplete.media))
        if folder is None:
            raise incomplete
        bundle = good.bundle if folder == SAME else folder
        expect = good.expect or incomplete.need.bundle_id
        wanted = replace(good, bundle=bundle, others=(), expect=expect)
