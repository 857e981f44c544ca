"""Names of options: a short one means the same in every command, and one thing has one long name."""

from collections import defaultdict
from collections.abc import Iterator

import typer.core
from typer.main import get_command

from llava_pack.cli.app import app


def _options(command: object, path: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the command line of every command with the names of each of its options."""
    for name, child in getattr(command, "commands", {}).items():
        yield from _options(child, f"{path} {name}".strip())
    for one in command.params:  # type: ignore[attr-defined]
        if isinstance(one, typer.core.TyperOption):
            yield path, (*one.opts, *one.secondary_opts)


def test_a_short_option_has_one_long_spelling_in_all_commands() -> None:
    meanings = defaultdict(set)
    for _path, names in _options(get_command(app)):
        long = [name for name in names if name.startswith("--")]
        assert long, f"{names} has no long spelling"
        for name in names:
            if not name.startswith("--"):
                meanings[name].add(long[0])
    assert meanings == {
        "-p": {"--ssh-port"},
        "-J": {"--jump"},
        "-o": {"--ssh-option"},
        "-n": {"--lines"},
        "-f": {"--follow"},
        "-y": {"--yes"},
    }


def test_what_ssh_is_told_has_the_same_names_in_all_commands() -> None:
    by_command = defaultdict(set)
    for path, names in _options(get_command(app)):
        by_command[path].update(names)
    for path, names in by_command.items():
        ssh = {"-p", "--ssh-port", "-J", "--jump", "-o", "--ssh-option"}
        assert names & ssh in (set(), ssh), path
        assert not names & {"--option", "--output"}, path
