"""What serves from a prefix: handed to another generation, whose own code stops and starts it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from llava_pack.format.errors import InstallError
from llava_pack.format.progress import Progress
from llava_target import generations, journal

PENDING = "handover.json"
"""Holds what was stopped and is to run again."""
_SERVE = ["-I", "-m", "llava_pack", "serve"]


def processes() -> Iterator[tuple[int, list[str]]]:
    """Yield number and arguments of every process."""
    for process in Path("/proc").iterdir():
        try:
            line = (process / "cmdline").read_bytes() if process.name.isdecimal() else b""
        except OSError:
            continue
        if line:
            yield int(process.name), os.fsdecode(line).rstrip("\0").split("\0")


def serves(prefix: Path, recipe: str) -> bool:
    """Say whether a server runs, or is to run again, that a change of `recipe` is about."""
    own = f"{prefix}/models/{recipe}/"
    return (prefix / PENDING).exists() or any(
        argv[1:5] == _SERVE
        and argv[0].startswith(f"{prefix}/models/")
        and (argv[0].startswith(own) or recipe in argv[5:])
        for _, argv in processes()
    )


def hand_over(prefix: Path, recipe: str, number: int, verb: str) -> None:
    """Have a generation's own code `stop` the servers of a recipe, or `restart` and examine them.

    Raises:
        InstallError: with what it said.
    """
    python = generations.generation_folder(prefix, recipe, number) / "venv" / "bin" / "python"
    command = [str(python), "-I", "-m", "llava_pack.serve.handover", verb, str(prefix), recipe]
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
        progress.note(f"generation {number} does not serve, going back to {previous}: {error}")
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
            progress.note(f"! what served before could not be started again: {error}")
