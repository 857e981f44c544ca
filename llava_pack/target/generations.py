"""Generations: the installed versions of each recipe, of which one is the current one."""

import os
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llava_pack.format import files
from llava_pack.format.errors import UsageError
from llava_pack.format.paths import safe_component
from llava_pack.target import disk, ownership, receipt
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
    script = _launcher(prefix, folder / "current")
    files.write(prefix / "bin" / "llava-pack", os.fsencode(script), 0o755)


def _launcher(prefix: Path, current: Path) -> str:
    """Return `bin/llava-pack`, which looks at who could have changed what it starts, first.

    It runs before any code of the prefix; `ownership` looks closer, once it can be believed.
    """
    quoted = {name: shlex.quote(str(prefix / name)) for name in ("", "bin", "models")}
    root, binary, models = quoted.values()
    python = shlex.quote(str(current / "venv" / "bin" / "python"))
    on_the_way = " ".join(shlex.quote(str(place)) for place in ownership.way(prefix))
    within = f"{root} {binary} {models} {models}/* {models}/*/generations"
    within += f" {models}/*/generations/* {models}/*/current"
    shown = "-exec ls -ld '{}' ';'"
    return f"""#!/bin/sh
# a function that the caller exported would be taken for a program; bash looks for `unset` itself
# before functions only where POSIXLY_CORRECT is set
POSIXLY_CORRECT=1
unset -f cd find id ls echo return
others() {{
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    # find goes back to where it was started, which root may have been and this account may not
    cd / && me=$(id -u) || return
    # shellcheck disable=SC2046
    set -- $(ls -ldn /)
    strange="! -user 0 ! -user $me ! -user $3"
    open="! -type l -perm -0002" grouped="! -type l -perm -0020 ! -group 0 ! -group $me"
    # shellcheck disable=SC2086
    find {on_the_way} -prune '(' $strange -o ! -perm -1000 '(' $open -o $grouped ')' ')' {shown}
    # shellcheck disable=SC2086
    find {within} -prune '(' $strange -o $open -o $grouped ')' {shown}
}}
wrong=$(others 2>&1) || wrong="$wrong (could not be checked)"
case $wrong in
'') ;;
*)
    echo "error: another account could change the programs run here: owner or mode of $wrong" >&2
    echo 'hint: run it as the owner, chmod go-w, or install with another --prefix' >&2
    exit 3
    ;;
esac
LLAVA_PACK_PREFIX={root}
export LLAVA_PACK_PREFIX
# health and revert are needed most where the environment of the current one is broken
for python in {python} {models}/*/generations/*/venv/bin/python; do
    "$python" -I -S -c '' 2>/dev/null && exec "$python" -I -m llava_pack "$@"
done
echo 'error: no Python under this prefix runs; hint: install the bundle again' >&2
exit 14
"""


def state(prefix: Path, recipe: str) -> str:
    """Return which generation of a recipe is active, in words for a message."""
    number = current_number(prefix, recipe)
    if number is None:
        return "no generation is active"
    return f"generation {number} of {recipe} is still active"
