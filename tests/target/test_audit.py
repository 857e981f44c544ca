"""What a person must read before trusting a bundle: little, and on the stdlib alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bundle import CHECKOUT

INSTALLERS = CHECKOUT / "installers"
CODE = [CHECKOUT / "llava_pack" / name for name in ("format", "target")]
MODULES = sorted(path for folder in CODE for path in folder.glob("*.py"))
SCRIPTS = sorted(INSTALLERS.rglob("*.sh"))
BUDGET_LINES = 4100
SHELLCHECK = Path(sys.executable).with_name("shellcheck")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_the_installer_imports_the_stdlib_and_the_format_only(path):
    for node in ast.walk(ast.parse(path.read_text())):
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


def test_what_an_auditor_reads_stays_within_its_budget():
    # probe.sh runs before there is a bundle, and takes no part in trusting one
    read = [path for path in [*MODULES, *SCRIPTS] if path.name != "probe.sh"]
    lines = {
        path.name: sum(bool(line.strip()) for line in path.read_text().splitlines())
        for path in read
    }
    assert sum(lines.values()) <= BUDGET_LINES, lines


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize("dialect", ["sh", "dash", "busybox"])
def test_scripts_pass_shellcheck(path, dialect):
    done = subprocess.run(
        [str(SHELLCHECK), "-s", dialect, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
