"""What is imported from the package or from the tests is there: mypy reads neither tests nor benchmarks."""

import ast
import functools
import subprocess

import pytest

from tests.conftest import ROOT
from tests.support.sources import parsed

OWN = ("llava_pack", "tests")
SOURCES = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
    cwd=ROOT, capture_output=True, text=True, check=True,
).stdout.split()  # fmt: skip


def _file(module):
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def names(module):
    """Return what a module binds, and the modules in it where it is a package; None without one."""
    path = _file(module)
    inner = {one.stem for one in path.parent.iterdir()} if path.name == "__init__.py" else set()
    if not path.exists():
        return inner or None
    bound = set()
    for node in _outside_functions(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(one.asname or one.name).partition(".")[0] for one in node.names}
    return bound | inner


def _outside_functions(tree):
    """Yield the nodes of a module that bind names in it."""
    left = list(tree.body)
    while left:
        node = left.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            left += ast.iter_child_nodes(node)


def absent(tree):
    """Yield what a module imports of ours that is not there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OWN:
            known = names(node.module)
            yield from (
                f"{node.module}.{one.name}"
                for one in node.names
                if known is None or one.name not in known
            )
        elif isinstance(node, ast.Import):
            ours = (one.name for one in node.names if one.name.split(".")[0] in OWN)
            yield from (name for name in ours if names(name) is None)


def test_what_is_imported_is_there():
    found = {path: list(absent(parsed(ROOT / path))) for path in SOURCES}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "line",
    [
        "from llava_pack.nowhere import x",
        "from llava_pack.shipped import nothing",
        "def late():\n    from tests.conftest import nothing",
        "import llava_pack.nowhere",
    ],
)
def test_what_is_not_there_is_found(line):
    assert list(absent(ast.parse(line)))
