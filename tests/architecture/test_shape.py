"""How large things may grow, how they are named, and that no import goes round in a circle.

Everything is found in the sources, so whatever is added is measured too.
"""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.conftest import ROOT

ROOTS = {"llava_pack": ROOT / "llava_pack", "llava_target": ROOT / "installers" / "llava_target"}


def module_name(package, path):
    parts = [package, *path.relative_to(ROOTS[package]).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {
    module_name(package, path): ast.parse(path.read_text())
    for package, folder in ROOTS.items()
    for path in sorted(folder.rglob("*.py"))
}


def running_nodes(node):
    """Yield every node below one, but for what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")):
            yield child
            yield from running_nodes(child)


def imports(tree, modules):
    """Return which of some modules a tree imports, at its head or inside a function."""
    found = set()
    for node in running_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & modules) or {node.module}
    return found & modules


def circle(trees):
    """Return one circle of modules, or None."""
    graph = {name: imports(tree, trees.keys()) - {name} for name, tree in trees.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_no_import_goes_round_in_a_circle():
    assert circle(TREES) is None


@pytest.mark.parametrize(
    "back", ["from p import a", "def late():\n    import p.a", "from p.a import thing"]
)
def test_a_circle_is_found_wherever_it_is_closed(back):
    trees = {"p.a": ast.parse("from p.b import x"), "p.b": ast.parse(back)}
    assert circle(trees) is not None


def test_what_only_a_type_checker_reads_closes_no_circle():
    late = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.a"
    assert circle({"p.a": ast.parse("import p.b"), "p.b": ast.parse(late)}) is None
