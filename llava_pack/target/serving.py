"""What serves from a prefix: handed to another generation, whose own code stops and starts it.

A process can call itself anything: its arguments are a claim, which is enough to have it looked at.
What is stopped and started proves itself first: llava_pack/serve/own_servers.py.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from llava_pack.format.errors import InstallError
from llava_pack.format.progress import Progress
from llava_pack.target import generations, journal

PENDING = "handover.json"
"""Holds what was stopped and is to run again."""
_SERVE = ["-I", "-m", "llava_pack", "serve"]
_HANDOVER = "llava_pack.serve.handover"
_PROVES = "venv/lib/python*/site-packages/llava_pack/serve/own_servers.py"


def processes() -> Iterator[tuple[int, list[str]]]:
    """Yield number and arguments of every process."""
    for process in Path("/proc").iterdir():
        try:
            line = (process / "cmdline").read_bytes() if process.name.isdecimal() else b""
        except OSError:
            continue
        if line:
            yield int(process.name), os.fsdecode(line).rstrip("\0").split("\0")


def claims(prefix: Path, recipe: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield what calls itself a server of a prefix, or one that a change of `recipe` is about."""
    places = {str(prefix), os.path.realpath(prefix)}
    for pid, argv in processes():
        below = [place for place in places if argv[0].startswith(f"{place}/models/")]
        if argv[1:5] == _SERVE and below:
            own = argv[0].removeprefix(f"{below[0]}/models/").partition("/")[0]
            if recipe in {None, own, *argv[5:]}:
                yield pid, argv


def outdated(prefix: Path, recipe: str) -> Iterator[int]:
    """Yield what calls itself a server, and is older than its generation. Source: proc(5), stat."""
    link = prefix / "models" / recipe / "current"
    for pid, _ in claims(prefix, recipe):
        with suppress(OSError, IndexError, ValueError):
            ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
            began_s = int(ticks) / os.sysconf("SC_CLK_TCK")
            age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - began_s
            if age_s > time.time() - link.lstat().st_mtime:
                yield pid


def runs(root: Path) -> bool:
    """Say whether a process runs a program of a generation, whatever it does."""
    places = (f"{root}/", f"{os.path.realpath(root)}/")
    return any(argv[0].startswith(places) for _, argv in processes())


def serves(prefix: Path, recipe: str) -> bool:
    """Say whether something may serve, or is to run again, that a change of `recipe` is about."""
    return (prefix / PENDING).exists() or any(claims(prefix, recipe))


def _handing(prefix: Path, recipe: str, number: int) -> list[str]:
    """Return the start of a hand-over: by a generation's own code, where that asks for proof.

    Older code takes a process for what it calls itself, so it is never run for that.

    Raises:
        InstallError: only such code is there.
    """
    numbers = [number, *reversed(generations.numbers(prefix, recipe))]
    roots = [generations.generation_folder(prefix, recipe, one) for one in numbers]
    roots += [item.root for item in reversed(generations.listing(prefix))]
    asking = [str(root / "venv/bin/python") for root in roots if any(root.glob(_PROVES))]
    with suppress(ModuleNotFoundError):
        asking += [sys.executable] if find_spec(_HANDOVER) else []
    if not asking:
        raise InstallError("no version installed here can tell servers from similar processes")
    return [asking[0], "-I", "-m", _HANDOVER]


def hand_over(prefix: Path, recipe: str, number: int, verb: str) -> None:
    """Have a generation's own code `stop` the servers of a recipe, or `restart` and examine them.

    Raises:
        InstallError: with what it said.
    """
    command = [*_handing(prefix, recipe, number), verb, str(prefix), recipe]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise InstallError(
            done.stdout.decode(errors="backslashreplace").strip() or f"{verb} failed"
        )


def switch(
    prefix: Path, recipe: str, numbers: tuple[int | None, int], progress: Progress, operation: str
) -> None:
    """Make a complete generation the current one by one rename, and have it served.

    `numbers` are those of the one to go back to where the other does not serve, and of that other.

    Raises:
        InstallError: it does not serve; the one before is current again, and serves.
    """
    previous, number = numbers
    facts = {"recipe": recipe, "previous": previous, "generation": number}
    journal.record(prefix, "switch", operation=operation, **facts)
    generations.activate(prefix, recipe, number)
    if not serves(prefix, recipe):
        return
    try:
        hand_over(prefix, recipe, number, "restart")
    except InstallError as error:
        if previous is None or previous == number:
            raise
        progress.note(f"generation {number} does not serve, reverting to {previous}: {error}")
        generations.activate(prefix, recipe, previous)
        hand_over(prefix, recipe, previous, "restart")
        journal.close(prefix)
        state = generations.state(prefix, recipe)
        raise InstallError(f"generation {number} does not serve: {error}; {state}") from error


def resume(prefix: Path, progress: Progress) -> None:
    """Start again what was stopped for a change that did not come to its end."""
    recipe = next(reversed(generations.recipes(prefix)), None)
    number = generations.current_number(prefix, recipe) if recipe else None
    if recipe and number and (prefix / PENDING).exists():
        try:
            hand_over(prefix, recipe, number, "restart")
        except InstallError as error:
            progress.note(f"! the previous server could not be restarted: {error}")
