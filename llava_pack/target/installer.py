"""Install: check everything, place every byte once, stage, test, then switch by one rename."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pack.format.progress import Progress
from llava_pack.target import (
    disk,
    failures,
    generations,
    journal,
    need,
    receipt,
    relocation,
    serving,
    smoke,
    trust,
    venv,
)
from llava_pack.target.next_step import NextStep, next_step
from llava_pack.target.planning import InstallPlan, InstallRequest, plan
from llava_pack.target.staging import InstallRun, stage
from llava_pack.target.store import Store

__all__ = ["InstallPlan", "InstallRequest", "Outcome", "install", "plan", "recover"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an install came to."""

    recipe: str
    generation: int
    bundle_id: str
    prefix: Path
    unchanged: bool
    """This very bundle was installed and active already."""

    def next(self) -> NextStep:
        """Return what to do now: how it is served, or how what serves it is reached."""
        return next_step(self.prefix, self.recipe)

    def facts(self) -> dict[str, Any]:
        """Return what `--json` shows; `next` is the absolute command to run next."""
        return {**vars(self), "prefix": str(self.prefix), "next": self.next().command}


def install(request: InstallRequest, progress: Progress) -> Outcome:
    """Install a bundle, or say that it is installed; whatever fails, what was active stays active.

    Raises:
        PackError: as `plan`; `InstallError` where the venv or the smoke test fails, the new
            generation does not serve, or another installer is running; `SpaceError` where the disk
            fills up; `PreflightError` where the prefix cannot be written; `NetworkError` where the
            smoke test reaches for another host; `IncompleteError` where files are missing or bad.
    """
    planned = plan(request, progress)
    prefix = request.prefix
    recipe = planned.manifest.recipe.name
    bundle_id = planned.listing.bundle_id
    with failures.explained(prefix), journal.locked(prefix):
        left = journal.unfinished(prefix)
        number = recover(prefix, recipe, progress)
        current = generations.current_number(prefix, recipe)
        present = _present(prefix, recipe, planned, request.accepted)
        unchanged = present is not None and present == current
        halfway = left.get("step") == "switch" and left.get("generation") == present
        if present is None:
            stage(InstallRun(request=request, plan=planned, progress=progress, number=number))
        if halfway or not unchanged:
            numbers = (left.get("previous") if halfway else current, present or number)
            serving.switch(prefix, recipe, numbers, progress, "install")
        trust.pin(prefix, planned.verdict)
        need.forget(prefix, bundle_id, planned.manifest)
        journal.close(prefix)
    return Outcome(
        recipe=recipe,
        generation=present or number,
        bundle_id=bundle_id,
        prefix=prefix,
        unchanged=unchanged,
    )


def recover(prefix: Path, recipe: str, progress: Progress) -> int:
    """Remove what a killed run left, start what it had stopped, and return the next number.

    Under the lock. The number is the next generation's of `recipe`.
    """
    if left := journal.unfinished(prefix):
        progress.note(f"an earlier {left.get('operation')} stopped at {left.get('step')}: resuming")
    journal.clear_bootstraps(prefix)
    disk.remove_tree(Store(prefix).incoming)
    relocation.settle(prefix, progress)
    for folder in (prefix / "models").glob("*"):
        current = generations.current_number(prefix, folder.name)
        for number in generations.numbers(prefix, folder.name):
            root = generations.generation_folder(prefix, folder.name, number)
            if receipt.read(root) is None and number != current:
                disk.remove_tree(root)
            else:
                receipt.clear(root)
    serving.resume(prefix, progress)
    return max(generations.numbers(prefix, recipe) if recipe else (), default=0) + 1


def _present(
    prefix: Path, recipe: str, planned: InstallPlan, accepted: Sequence[str]
) -> int | None:
    """Return the generation of this very bundle, that was tested with what is to be kept.

    Of each answer that may be wrong it says so, or that it was right.
    """
    for item in reversed(generations.listing(prefix, recipe)):
        pythons = venv.interpreters(planned.manifest, item.root).values()
        runs = all(os.access(python, os.X_OK) for python in pythons)
        same = item.receipt.bundle_id == planned.listing.bundle_id
        same = same and {*planned.kept} <= {*item.receipt.kept}
        same = same and {*accepted} <= smoke.told_of(item.receipt.smoke)
        if runs and same and not receipt.broken(item.root):
            return item.number
    return None
