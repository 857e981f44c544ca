"""Going back to an earlier generation, and giving disk space back."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from llava_pack.format.errors import InstallError
from llava_pack.format.manifest import parse_manifest
from llava_pack.format.progress import Progress
from llava_pack.format.sums import MANIFEST_NAME
from llava_target import disk, generations, installer, journal, receipt
from llava_target.generations import Generation
from llava_target.store import Store

_OURS = ("bin", "journal.json", "lock", "models", "run", "store", "trust", "logs")


@dataclass(frozen=True)
class Freed:
    """What a removal came to."""

    generations: tuple[str, ...]
    """`<recipe>/<number>` of each that was removed."""
    store_bytes: int
    """Given back by files that no generation needs any more."""


def revert(prefix: Path, recipe: str | None, number: int | None, progress: Progress) -> Generation:
    """Make an earlier complete generation the current one, and return it.

    Without `recipe` the one activated last is meant, without `number` the newest older one.

    Raises:
        InstallError: there is no such generation.
    """
    name = generations.chosen_recipe(prefix, recipe)
    with journal.locked(prefix):
        installer.recover(prefix, name, progress)
        current = generations.current_number(prefix, name) or 0
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
        generations.activate(prefix, name, chosen)
        journal.close(prefix)
    return dataclasses.replace(held[chosen], current=True)


def gc(prefix: Path, progress: Progress, *, keep: int = 2) -> Freed:
    """Remove old generations, and every file of the store that none needs any more.

    Of each recipe, `keep` generations stay: the current one and the newest others.

    Raises:
        InstallError: nothing is installed.
    """
    generations.chosen_recipe(prefix, None)
    with journal.locked(prefix):
        installer.recover(prefix, "", progress)
        old = []
        for recipe in generations.recipes(prefix):
            items = list(generations.listing(prefix, recipe))
            items.sort(key=lambda item: (item.current, item.number))
            old += items[: -max(1, keep)]
        return _remove(prefix, old)


def uninstall(prefix: Path, recipe: str | None, progress: Progress) -> Freed:
    """Remove one recipe, or everything that was installed under a prefix.

    Raises:
        InstallError: it is not installed.
    """
    generations.chosen_recipe(prefix, recipe)
    with journal.locked(prefix):
        installer.recover(prefix, recipe or "", progress)
        names = generations.recipes(prefix) if recipe is None else (recipe,)
        for name in names:
            (generations.recipe_folder(prefix, name) / "current").unlink(missing_ok=True)
        gone = [item for name in names for item in generations.listing(prefix, name)]
        freed = _remove(prefix, gone)
        for name in names:
            disk.remove_tree(generations.recipe_folder(prefix, name))
        if left := generations.recipes(prefix):
            number = generations.current_number(prefix, left[-1])
            generations.activate(prefix, left[-1], number or 0)
        else:
            for name in _OURS:
                disk.remove_tree(prefix / name)
            if not any(prefix.iterdir()):
                prefix.rmdir()
    return freed


def _remove(prefix: Path, items: list[Generation]) -> Freed:
    for item in items:
        receipt.void(item.root)
        disk.remove_tree(item.root)
    needed: set[str] = set()
    for item in generations.listing(prefix):
        manifest = parse_manifest((item.root / MANIFEST_NAME).read_bytes())
        needed.update(entry.sha256 for entry in manifest.files)
    freed = Store(prefix).sweep(needed)
    journal.close(prefix)
    return Freed(tuple(f"{item.recipe}/{item.number}" for item in items), freed)
