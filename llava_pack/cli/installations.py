"""What is installed under a prefix, for the commands that use it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava_pack.cli import console
from llava_pack.cli.target import own_prefix
from llava_pack.format.errors import IntegrityError
from llava_pack.health.probes import rehash, unpromised
from llava_pack.serve.plans import EnginePlan, LoadOptions, installed_plan
from llava_pack.target import receipt
from llava_pack.target.store import Store

if TYPE_CHECKING:
    from llava_pack.cli.installed import Installation

_SHOWN = 5


def installations(prefix: Path | None, recipes: Sequence[str]) -> tuple["Installation", ...]:
    """Return the active generations of some recipes, or of the one activated last.

    Raises:
        InstallError: one is not installed.
        PreflightError: another account could change what would be served.
    """
    place = own_prefix(prefix)
    from llava_pack.cli.installed import installed

    return tuple(installed(place, recipe) for recipe in recipes) or (installed(place),)


def changed_files(item: "Installation") -> tuple[str, ...]:
    """Return the files that are not as they were when they were verified.

    Where links, owner or permissions alone changed (the medium's copy of a linked file was removed,
    say), the bytes are read again; if they are right, that is how the files look from now on.
    """
    if changed := receipt.broken(item.root, ctime=False):
        return changed
    return read_again(item) if receipt.broken(item.root) else ()


def read_again(item: "Installation") -> tuple[str, ...]:
    """Return the files that are not what the bundle id promises, every byte read.

    Where all are right, how they look now is how they look from now on.
    """
    changed = unpromised(item.manifest, item.root, item.bundle_id)
    changed += rehash(item.manifest, item.root, Store(item.prefix).path, console.progress())
    if not changed and receipt.broken(item.root) and os.access(item.root, os.W_OK):
        receipt.seal(item.root)
    return changed


def plan_of(item: "Installation", options: LoadOptions) -> EnginePlan:
    """Return how an installed model is served.

    Raises:
        IntegrityError: its files do not look as they did when they were verified.
    """
    if changed := changed_files(item):
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise IntegrityError(
            f"changed since they were verified: {', '.join(changed[:_SHOWN])}{more}",
            subject=item.recipe,
            hint=f"{item.prefix}/bin/llava-pack health --deep",
        )
    return installed_plan(
        item.manifest,
        options,
        model_dir=item.model_dir,
        vision_tower=item.vision_tower_dir,
        python=item.venv_python,
    )
