"""What a person must read before trusting a bundle: little, and on the stdlib alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bundle import CHECKOUT
from tests.support.sources import parsed

INSTALLERS = CHECKOUT / "installers"
CODE = [CHECKOUT / "llava_pack" / name for name in ("format", "target")]
MODULES = sorted(path for folder in CODE for path in folder.glob("*.py"))
SCRIPTS = sorted(INSTALLERS.rglob("*.sh"))
DECIDES_TRUST = frozenset(
    [
        *("install.sh", "trust.py", "inventory.py", "unlisted.py", "ownership.py"),
        *("sums.py", "signature.py", "paths.py", "canonical.py", "records.py", "digests.py"),
    ]
)
"""Whether a byte is believed; the other modules place what is, and start it."""
BUDGET_LINES = {True: 1500, False: 2600}
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


def test_the_parts_of_the_budget_name_modules_that_are_there():
    assert {path.name for path in [*MODULES, *SCRIPTS]} >= DECIDES_TRUST


@pytest.mark.parametrize("trust", [True, False], ids=["decides trust", "places and starts"])
def test_what_an_auditor_reads_stays_within_its_budget(trust):
    # these run before there is a bundle, and take no part in trusting one
    before = {"probe.sh", "receive.sh"}
    read = [path for path in [*MODULES, *SCRIPTS] if path.name not in before]
    lines = {
        str(path): sum(bool(line.strip()) for line in path.read_text().splitlines())
        for path in read
        if (path.name in DECIDES_TRUST) == trust
    }
    assert sum(lines.values()) <= BUDGET_LINES[trust], lines


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
