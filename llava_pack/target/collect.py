"""A bundle that comes on one medium after the other, in any order."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llava_pack.format.errors import IntegrityError, SignatureError, UsageError
from llava_pack.format.progress import Progress
from llava_pack.target import installer
from llava_pack.target.installer import InstallRequest, Outcome
from llava_pack.target.need import IncompleteError

Ask = Callable[[str], str | None]
"""Asks a person for the next medium: the folder, empty for the same one, None for no more."""


def collect(request: InstallRequest, ask: Ask, progress: Progress) -> Outcome:
    """Take what is good on each medium into the store; the last one completes the installation.

    Raises:
        IncompleteError: something is still missing, and no more media come now.
        PackError: as `installer.install`.
    """
    wanted = request
    incomplete: IncompleteError | None = None
    while True:
        try:
            return installer.install(wanted, progress)
        except IncompleteError as error:
            incomplete = error
            for defect in error.bad:
                progress.note(f"! {defect}")
            progress.note(error.still)
        except (UsageError, IntegrityError, SignatureError) as error:
            if incomplete is None:
                raise
            progress.note(f"! {error}")
        folder = ask(incomplete.still)
        if folder is None:
            raise incomplete
        bundle = Path(folder) if folder else wanted.bundle
        expect = wanted.expect or incomplete.need.bundle_id
        wanted = replace(wanted, bundle=bundle, others=(), expect=expect)
