"""Going back to an earlier generation, and giving disk space back."""

from dataclasses import dataclass
from pathlib import Path

from llava_pack.format.errors import InstallError
from llava_pack.format.manifest import parse_manifest
from llava_pack.format.progress import Progress
from llava_pack.format.sums import MANIFEST_NAME
from llava_target import disk, generations, installer, journal
from llava_target.generations import Generation
from llava_target.store import Store

_OURS = ("bin", "journal.json", "lock", "models", "run", "store", "trust", "logs")


@dataclass(frozen=True, kw_only=True)
class Freed:
    """What a removal came to."""

    generations: tuple[str, ...]
    """`<recipe>/<number>` of each that was removed."""
    store_bytes: int
    """Given back by files that no generation needs any more."""


def revert(prefix: Path, recipe: str | None, number: int | None, progress: Progress) -> Generation:
    """Make an earlier complete generation the current one, and return it.

    Args:
        prefix: of the installation.
        recipe: None for the one activated last.
        number: None for the newest one older than the current.
        progress: told what a killed run left.

    Raises:
        InstallError: there is no such generation.
    """
    name = generations.chosen_recipe(prefix, recipe)
    with journal.locked(prefix):
        installer.recover(prefix, name, progress)
        current = generations.current_number(prefix, name) or 0
        complete = generations.listing(prefix, name)
        wanted = [
            item
            for item in complete
            if (item.number < current if number is None else item.number == number)
        ]
        if not wanted:
            held = ", ".join(str(item.number) for item in complete)
            raise InstallError(
                f"expected generation {number or f'older than {current}'}, got {held or 'none'}; "
                + generations.state(prefix, name),
                subject=name,
                hint=f"{prefix}/bin/llava-pack generations",
            )
        chosen = wanted[-1]
        generations.activate(prefix, name, chosen.number)
        journal.Journal(prefix).close()
    return next(item for item in generations.listing(prefix, name) if item.current)


def gc(prefix: Path, progress: Progress, *, keep: int = 2) -> Freed:
    """Remove old generations, and every file of the store that none needs any more.

    Args:
        prefix: of the installation.
        progress: told what a killed run left.
        keep: how many generations of each recipe stay: the current one and the newest others.
    """
    with journal.locked(prefix):
        installer.recover(prefix, "", progress)
        removed = []
        for recipe in generations.recipes(prefix):
            items = sorted(
                generations.listing(prefix, recipe), key=lambda item: (item.current, item.number)
            )
            for item in items[: max(0, len(items) - max(1, keep))]:
                disk.remove_tree(item.root)
                removed.append(f"{recipe}/{item.number}")
        freed = _sweep(prefix)
        journal.Journal(prefix).close()
    return Freed(generations=tuple(removed), store_bytes=freed)


def uninstall(prefix: Path, recipe: str | None, progress: Progress) -> Freed:
    """Remove one recipe, or everything that was installed under a prefix.

    Raises:
        InstallError: it is not installed.
    """
    if recipe is None and not (prefix / "models").is_dir():
        raise InstallError("nothing is installed here", subject=str(prefix), hint="give --prefix")
    names = generations.recipes(prefix)
    if recipe is not None:
        names = (generations.chosen_recipe(prefix, recipe),)
    with journal.locked(prefix):
        installer.recover(prefix, recipe or "", progress)
        removed = []
        for name in names:
            folder = generations.recipe_folder(prefix, name)
            (folder / "current").unlink(missing_ok=True)
            removed += [f"{name}/{item.number}" for item in generations.listing(prefix, name)]
            disk.remove_tree(folder)
        freed = _sweep(prefix)
        journal.Journal(prefix).close()
        if left := generations.recipes(prefix):
            generations.activate(
                prefix, left[-1], generations.current_number(prefix, left[-1]) or 0
            )
        else:
            _remove_all(prefix)
    return Freed(generations=tuple(removed), store_bytes=freed)


def _remove_all(prefix: Path) -> None:
    for name in _OURS:
        disk.remove_tree(prefix / name)
    if not any(prefix.iterdir()):
        prefix.rmdir()


def _sweep(prefix: Path) -> int:
    needed: set[str] = set()
    for item in generations.listing(prefix):
        manifest = parse_manifest((item.root / MANIFEST_NAME).read_bytes())
        needed.update(entry.sha256 for entry in manifest.files)
    return Store(prefix).sweep(needed)
