"""Going back to an earlier generation, and giving disk space back."""

import dataclasses
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llava_pack.format.errors import InstallError, SpaceError
from llava_pack.format.manifest import parse_manifest
from llava_pack.format.progress import Progress
from llava_pack.format.sums import MANIFEST_NAME
from llava_pack.installation import client_key
from llava_pack.installation.installed import chosen_recipe
from llava_pack.serve.origin import user_of
from llava_pack.target import (
    disk,
    failures,
    generations,
    installer,
    journal,
    launcher,
    need,
    ownership,
    receipt,
    serving,
)
from llava_pack.target.generations import Generation
from llava_pack.target.store import Store

_OURS = (
    *("bin", "models", "run", "store", "trust", "logs", "keys", client_key.NAME, "received"),
    *(launcher.PLACE, need.COLLECTING, need.NAME, "lock", journal.NAME),
)
"""The journal goes last: until then, the next run knows what to finish."""


@dataclass(frozen=True)
class Freed:
    """What a removal came to."""

    generations: tuple[str, ...]
    """`<recipe>/<number>` of each that was removed."""
    store_bytes: int
    """Given back by files that no generation needs any more."""


def revert(prefix: Path, recipe: str | None, number: int | None, progress: Progress) -> Generation:
    """Make an earlier complete generation the current one, have it served, and return it.

    Without `recipe` the one activated last is meant, without `number` the newest older one; a
    revert that was killed goes on to the one that it had chosen.

    Raises:
        InstallError: there is no such generation, or it does not serve.
        PreflightError: another account could change what is under the prefix.
        SpaceError: the disk is full; nothing was changed, or the same command goes on.
    """
    name = chosen_recipe(prefix, recipe)
    with failures.explained(prefix), journal.locked(prefix):
        left = journal.unfinished(prefix)
        installer.recover(prefix, name, progress)
        current = generations.current_number(prefix, name) or 0
        before = current
        if (left.get("operation"), left.get("recipe")) == ("revert", name):
            number, before = number or left.get("generation"), left.get("previous") or current
        held = {item.number: item for item in generations.listing(prefix, name)}
        chosen = number or max((held.keys() & set(range(current))), default=0)
        if chosen not in held:
            wanted = number or f"one older than {current}"
            raise InstallError(
                f"expected generation {wanted}, got {', '.join(map(str, held)) or 'none'}; "
                + generations.state(prefix, name),
                subject=name,
                hint=f"{prefix}/bin/llava-pack generations",
            )
        serving.switch(prefix, name, (before, chosen), progress, "revert")
        journal.close(prefix)
    return dataclasses.replace(held[chosen], current=True)


def gc(prefix: Path, progress: Progress, *, keep: int = 2) -> Freed:
    """Remove old generations, and every file of the store that none needs any more.

    Of each recipe, `keep` generations stay: the current one and the newest others; and whatever is
    running.

    Raises:
        InstallError: nothing is installed.
    """
    chosen_recipe(prefix, None)
    with failures.explained(prefix), journal.locked(prefix):
        installer.recover(prefix, "", progress)
        old = []
        for recipe in generations.recipes(prefix):
            items = list(generations.listing(prefix, recipe))
            items.sort(key=lambda item: (item.current, item.number))
            old += items[: -max(1, keep)]
        running = [item for item in old if serving.runs(item.root)]
        for item in running:
            progress.note(f"{item.recipe} generation {item.number} is kept: it is in use")
        freed = _remove(prefix, [item for item in old if item not in running], "gc")
        journal.close(prefix)
    return freed


def uninstall(prefix: Path, recipe: str | None, progress: Progress) -> Freed:
    """Remove one recipe, or everything that was installed under a prefix; nothing, where it is not.

    Raises:
        InstallError: it is being served.
        PreflightError: the prefix cannot be written.
    """
    with failures.explained(prefix):
        left = journal.unfinished(prefix)
    halfway = left.get("operation") == "uninstall" and recipe in {left.get("recipe"), None}
    held = generations.recipes(prefix)
    begun = recipe is None and (prefix / need.COLLECTING).is_dir()
    if not (halfway or begun) and (not held or recipe not in {*held, None}):
        return Freed((), 0)
    with failures.explained(prefix), journal.locked(prefix):
        installer.recover(prefix, recipe or "", progress)
        for pid, _ in serving.claims(prefix, recipe):
            whose = ownership.account(user_of(pid))
            raise InstallError(
                f"a server is still running (process {pid} of {whose}); nothing was removed",
                subject=recipe or str(prefix),
                hint=f"{prefix}/bin/llava-pack service remove, or stop that process",
            )
        names = (
            [path.name for path in (prefix / "models").glob("*")] if recipe is None else [recipe]
        )
        _record(prefix, "deactivate", operation="uninstall", recipe=recipe)
        for name in names:
            (generations.recipe_folder(prefix, name) / "current").unlink(missing_ok=True)
        gone = [item for name in names for item in generations.listing(prefix, name)]
        freed = _remove(prefix, gone, "uninstall", recipe)
        for name in names:
            disk.remove_tree(generations.recipe_folder(prefix, name))
        if remaining := generations.recipes(prefix):
            number = generations.current_number(prefix, remaining[-1])
            generations.activate(prefix, remaining[-1], number or 0)
            journal.close(prefix)
        else:
            for name in _OURS:
                disk.remove_tree(prefix / name)
            if not any(prefix.iterdir()):
                prefix.rmdir()
    return freed


def _record(prefix: Path, step: str, **facts: str | None) -> None:
    """Write the step that begins now, where there is room: what frees some must not need any."""
    with suppress(SpaceError), disk.room_on(prefix):
        journal.record(prefix, step, **facts)


def _remove(
    prefix: Path, items: list[Generation], operation: str, recipe: str | None = None
) -> Freed:
    facts = {"operation": operation, "recipe": recipe}
    with receipt.unshaken([item.root for item in generations.listing(prefix)]):
        for item in items:
            _record(prefix, "remove", **facts)
            receipt.void(item.root)
            disk.remove_tree(item.root)
        _record(prefix, "sweep", **facts)
        needed: set[str] = set()
        for item in generations.listing(prefix):
            manifest = parse_manifest((item.root / MANIFEST_NAME).read_bytes())
            needed.update(entry.sha256 for entry in manifest.files)
        for manifest in need.collected(prefix):
            needed.update(entry.sha256 for entry in manifest.files)
        freed = Store(prefix).sweep(needed)
    return Freed(tuple(f"{item.recipe}/{item.number}" for item in items), freed)
