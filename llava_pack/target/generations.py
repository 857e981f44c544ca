"""Generations: the installed versions of each recipe, of which one is the current one."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llava_pack.format import files
from llava_pack.format.errors import UsageError
from llava_pack.format.paths import safe_component
from llava_pack.target import disk, launcher, receipt
from llava_pack.target.receipt import Receipt


@dataclass(frozen=True)
class Generation:
    """A complete generation, as a list shows it."""

    recipe: str
    number: int
    root: Path
    current: bool
    receipt: Receipt


def base_folder(variable: str, below: str) -> Path | None:
    """Return a folder of XDG's; None where this account has none to write, as in containers."""
    with suppress(RuntimeError):
        folder = _xdg_folder(variable, below)
        there = next(place for place in (folder, *folder.parents) if os.access(place, os.F_OK))
        if os.access(there, os.W_OK):
            return folder
    return None


def _xdg_folder(variable: str, below: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / below)


def default_prefix() -> Path:
    """Return where an installation is when nobody says: for everybody as root, else in this home.

    Raises:
        UsageError: the account has no home folder.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/opt/llava-pack")
    try:
        return _xdg_folder("XDG_DATA_HOME", ".local/share") / "llava-pack"
    except RuntimeError as error:
        message = "this account has no home"
        raise UsageError(message, subject="--prefix", hint="--prefix DIR") from error


def recipe_folder(prefix: Path, recipe: str) -> Path:
    """Return the folder of one recipe."""
    return prefix / "models" / safe_component(recipe)


def generation_folder(prefix: Path, recipe: str, number: int) -> Path:
    """Return the folder of one generation."""
    return recipe_folder(prefix, recipe) / "generations" / str(number)


def model_root(generation: Path) -> str:
    """Return what stands for the model's place in its files: without links, whatever was typed."""
    return os.path.realpath(generation / "model")


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
                found.append(Generation(name, number, root, number == current, proof))
    return tuple(found)


def current_number(prefix: Path, recipe: str) -> int | None:
    """Return the number of the current generation, None where there is none."""
    with suppress(OSError, ValueError):
        return int((recipe_folder(prefix, recipe) / "current").readlink().name)
    return None


def kept(prefix: Path, recipe: str | None = None, number: int | None = None) -> tuple[str, ...]:
    """Return the variables that what is current was tested with; `number` as if it were, too."""
    current = {name: current_number(prefix, name) for name in recipes(prefix)}
    if recipe:
        current[recipe] = number
    roots = [generation_folder(prefix, name, one or 0) for name, one in current.items()]
    proofs = filter(None, map(receipt.read, roots))
    return tuple(sorted({name for proof in proofs for name in proof.kept}))


def activate(prefix: Path, recipe: str, number: int) -> None:
    """Make a complete generation the current one, by one rename; what needs space comes before."""
    (prefix / "bin").mkdir(exist_ok=True)
    program = launcher.text(recipe, kept(prefix, recipe, number))
    with files.replacing(prefix / "bin" / "llava-pack", 0o755) as stream:
        stream.write(program.encode())
        stream.flush()
        os.fsync(stream.fileno())
        disk.point(recipe_folder(prefix, recipe) / "current", f"generations/{number}")


def state(prefix: Path, recipe: str) -> str:
    """Return which generation of a recipe is active, in words for a message."""
    number = current_number(prefix, recipe)
    if number is None:
        return "no generation is active"
    return f"generation {number} of {recipe} is still active"
