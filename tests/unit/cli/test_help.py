"""`llava-pack --help`: every command in its panel, on one whole line of 80 columns."""

import subprocess
import sys

import pytest
from typer.main import get_command

from llava_pack.cli.app import BOTH, FIRST_STEPS, LAPTOP, SERVER, app

COMMANDS = get_command(app).commands
PANELS = (LAPTOP, SERVER, BOTH)


@pytest.fixture(scope="module")
def lines():
    done = subprocess.run(
        [sys.executable, "-m", "llava_pack", "--help"],
        env={"COLUMNS": "80", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_every_command_is_shown_once_whole_and_in_its_panel(lines):
    rows = {panel: _below(lines, panel) for panel in PANELS}
    for name, command in COMMANDS.items():
        first = (command.help or "").partition("\n")[0]
        shown = [panel for panel in PANELS if f"{name} {first}" in map(_spaced, rows[panel])]
        assert shown == [command.rich_help_panel], name
    assert sum(map(len, rows.values())) == len(COMMANDS), "a line a command"
    assert not [line for line in lines[1:] if len(line) > 80 or line.endswith(("...", "…"))]


def test_the_first_steps_come_first(lines):
    steps = [step.__name__ for step in FIRST_STEPS]
    assert f"  The first steps: {', '.join(steps)}." in lines
    assert len(steps) == 6
    for panel in PANELS:
        names = [row.split()[0] for row in _below(lines, panel)]
        own = [name for name in names if name in steps]
        assert names[: len(own)] == own


def _below(lines, panel):
    rows = lines[lines.index(f"{panel}:") + 1 :]
    return rows[: rows.index("")] if "" in rows else rows


def _spaced(row):
    return " ".join(row.split())
