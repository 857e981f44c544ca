"""What a person must read before trusting a bundle: little, and on the stdlib alone."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pack.assemble.runtime_files import installer_code
from tests.support.bundle import CHECKOUT
from tests.support.sources import parsed

INSTALLERS = CHECKOUT / "installers"
CODE = [CHECKOUT / "llava_pack" / name for name in ("format", "target")]
MODULES = sorted(path for folder in CODE for path in folder.glob("*.py"))
LAPTOP = CHECKOUT / "llava_pack" / "format" / "windows.py"
"""No bundle holds it."""
SCRIPTS = sorted(INSTALLERS.rglob("*.sh"))
DECIDES_TRUST = frozenset(
    [
        *("install.sh", "trust.py", "inventory.py", "contents.py", "unlisted.py", "ownership.py"),
        *("sums.py", "signature.py", "paths.py", "canonical.py", "records.py", "digests.py"),
    ]
)
"""Whether a byte is believed; the other modules place what is, and start it."""
ASKS_AN_INDEX = frozenset(["package_index.py"])
"""What runs for a bundle without wheels alone, and says nothing about what is believed."""
CROSSES = frozenset(
    ["chunks.py", "part.py", "digest_list.py", "pieces.py", "need.py", "collect.py"]
)
"""What runs where a bundle is not whole: parts of files, several media, what to bring."""
REBUILDS = frozenset(["par2.py", "parity.py", "rebuilding.py"])
"""What runs only where files are bad, and says nothing about what is believed either."""
SPEAKS = frozenset(["translation.py"])
"""What shows a message in the person's language."""
PARTS = {
    "decides trust": 1922,
    "places and starts": 3511,
    "asks an index": 250,
    "crosses media": 646,
    "rebuilds": 475,
    "speaks": 135,
}
UNREAD = frozenset(["probe.sh", "receive.sh", "windows.py"])
"""The first two run before there is a bundle to trust, and the last one is in no bundle."""
MADE = re.compile(r"^# Chinese begins.*^# Chinese ends$", re.DOTALL | re.MULTILINE)
"""Made from target/zh.toml, and compared with it by another test."""
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
    assert {
        path.name for path in [*MODULES, *SCRIPTS]
    } >= DECIDES_TRUST | ASKS_AN_INDEX | CROSSES | REBUILDS | SPEAKS | UNREAD


def part_of(name):
    if name in DECIDES_TRUST:
        return "decides trust"
    if name in SPEAKS:
        return "speaks"
    if name in REBUILDS:
        return "rebuilds"
    if name in CROSSES:
        return "crosses media"
    return "asks an index" if name in ASKS_AN_INDEX else "places and starts"


@pytest.mark.parametrize("part", PARTS)
def test_what_an_auditor_reads_stays_within_its_budget(part):
    read = [path for path in [*MODULES, *SCRIPTS] if path.name not in UNREAD]
    lines = {
        str(path): sum(bool(line.strip()) for line in MADE.sub("", path.read_text()).splitlines())
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
