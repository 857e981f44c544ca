"""Generations: the installed versions of each recipe, of which one is the current one."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from llava_pack.format.paths import safe_component
from llava_target import disk, receipt
from llava_target.receipt import Receipt


@dataclass(frozen=True)
class Generation:
    """A complete generation, as a list shows it."""

    recipe: str
    number: int
    root: Path
    current: bool
    receipt: Receipt


def default_prefix() -> Path:
    """Return where to install when nobody says: for everybody as root, else for this account."""
    if os.geteuid() == 0:
        return Path("/opt/llava-pack")
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "llava-pack"


def recipe_folder(prefix: Path, recipe: str) -> Path:
    """Return the folder of one recipe."""
    return prefix / "models" / safe_component(recipe)


def generation_folder(prefix: Path, recipe: str, number: int) -> Path:
    """Return the folder of one generation."""
    return recipe_folder(prefix, recipe) / "generations" / str(number)


def recipes(prefix: Path) -> tuple[str, ...]:
    """Return the recipes with a current generation, the one activated last at the end."""
    found = [link for link in (prefix / "models").glob("*/current") if link.is_symlink()]
    found.sort(key=lambda link: link.lstat().st_mtime_ns)
    return tuple(link.parent.name for link in found)


def numbers(prefix: Path, recipe: str) -> list[int]:
    """Return the numbers of all generations of a recipe, complete or not, lowest first."""
    folders = (recipe_folder(prefix, recipe) / "generations").glob("*")
    return sorted(int(folder.name) for folder in folders if folder.name.isdecimal())


def listing(prefix: Path, recipe: str | None = None) -> tuple[Generation, ...]:
    """Return the complete generations of one recipe, or of all."""
    names = [recipe] if recipe else sorted(path.name for path in (prefix / "models").glob("*"))
    found = []
    for name in names:
        current = current_number(prefix, name)
        for number in numbers(prefix, name):
            root = generation_folder(prefix, name, number)
            if proof := receipt.read(root):
                is_current = number == current
                found.append(Generation(name, number, root, is_current, proof))
    return tuple(found)


def current_number(prefix: Path, recipe: str) -> int | None:
    """Return the number of the current generation, None where there is none."""
    try:
        name = (recipe_folder(prefix, recipe) / "current").readlink().name
    except OSError:
        return None
    return int(name) if name.isdecimal() else None


def activate(prefix: Path, recipe: str, number: int) -> None:
    """Make a complete generation the current one, by one rename."""
    folder = recipe_folder(prefix, recipe)
    disk.point(folder / "current", f"generations/{number}")
    (prefix / "bin").mkdir(exist_ok=True)
    python = shlex.quote(str(folder / "current" / "venv" / "bin" / "python"))
    others = f"{shlex.quote(str(prefix / 'models'))}/*/generations/*/venv/bin/python"
    script = f"""#!/bin/sh
LLAVA_PACK_PREFIX={shlex.quote(str(prefix))}
export LLAVA_PACK_PREFIX
# health and revert are needed most where the environment of the current one is broken
for python in {python} {others}; do
    "$python" -I -S -c '' 2>/dev/null && exec "$python" -I -m llava_pack "$@"
done
echo 'error: no Python under this prefix runs; hint: install the bundle again' >&2
exit 14
"""
    disk.write_file(prefix / "bin" / "llava-pack", os.fsencode(script), 0o755)


def command(prefix: Path) -> str:
    """Return the absolute command to run next, to be pasted into a shell."""
    return f"{shlex.quote(str(prefix / 'bin' / 'llava-pack'))} serve"


def state(prefix: Path, recipe: str) -> str:
    """Return which generation of a recipe is active, in words for a message."""
    number = current_number(prefix, recipe)
    if number is None:
        return "no generation is active"
    return f"generation {number} of {recipe} is still active"
