"""What a person must read before trusting a bundle: little, and on the stdlib alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pack.assemble.runtime_files import installer_code
from tests.support.bundle import CHECKOUT
from tests.support.chinese import BEGIN, END
from tests.support.sources import parsed

INSTALLERS = CHECKOUT / "installers"
CODE = [CHECKOUT / "llava_pack" / name for name in ("format", "target")]
MODULES = sorted(path for folder in CODE for path in folder.glob("*.py"))
LAPTOP = CHECKOUT / "llava_pack" / "format" / "windows.py"
"""No bundle holds it."""
SCRIPTS = sorted(INSTALLERS.rglob("*.sh"))
DECIDES_TRUST = frozenset(
    [
        *("install.sh", "trust.py", "inventory.py", "unlisted.py", "ownership.py"),
        *("sums.py", "signature.py", "paths.py", "canonical.py", "records.py", "digests.py"),
    ]
)
"""Whether a byte is believed; the other modules place what is, and start it."""
ASKS_AN_INDEX = frozenset(["package_index.py"])
"""What runs for a bundle without wheels alone, and says nothing about what is believed."""
PARTS = {"decides trust": 1540, "places and starts": 2900, "asks an index": 250}
SHELLCHECK = Path(sys.executable).with_name("shellcheck")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_the_installer_imports_the_stdlib_and_the_format_only(path):
    for node in ast.walk(parsed(path)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module]
        for name in names:
            top = name.split(".")[0]
            own = name == "llava_pack" or name.startswith(
                ("llava_pack.format", "llava_pack.target")
            )
            assert own or top in sys.stdlib_module_names, name


def test_what_is_not_counted_is_in_no_bundle():
    assert LAPTOP.is_file()
    copied = installer_code()
    assert f"format/{LAPTOP.name}" not in copied
    assert {path.relative_to(LAPTOP.parent.parent).as_posix() for path in MODULES} <= {
        *copied,
        f"format/{LAPTOP.name}",
    }


def test_the_parts_of_the_budget_name_modules_that_are_there():
    assert {path.name for path in [*MODULES, *SCRIPTS]} >= DECIDES_TRUST | ASKS_AN_INDEX


def read_by_an_auditor(path):
    """Return the lines of a file; of install.sh without its Chinese words.

    That those only replace lines of text is held by tests/architecture/test_chinese.py.
    """
    before, _, words = path.read_text(encoding="utf-8").partition(BEGIN)
    return (before + words.partition(END)[2]).splitlines()


def part_of(name):
    if name in DECIDES_TRUST:
        return "decides trust"
    return "asks an index" if name in ASKS_AN_INDEX else "places and starts"


@pytest.mark.parametrize("part", PARTS)
def test_what_an_auditor_reads_stays_within_its_budget(part):
    # probe.sh and receive.sh run before there is a bundle, and take no part in trusting one
    read = [
        path
        for path in [*MODULES, *SCRIPTS]
        if path.name not in {"probe.sh", "receive.sh", LAPTOP.name}
    ]
    lines = {
        str(path): sum(bool(line.strip()) for line in read_by_an_auditor(path))
        for path in read
        if part_of(path.name) == part
    }
    assert sum(lines.values()) <= PARTS[part], lines


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_no_line_is_saved_by_two_assignments_in_one(path):
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            assert not isinstance(node.targets[0], ast.Tuple), f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize("dialect", ["sh", "dash", "busybox"])
def test_scripts_pass_shellcheck(path, dialect):
    done = subprocess.run(
        [str(SHELLCHECK), "-s", dialect, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
