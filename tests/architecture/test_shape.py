"""How large things may grow, how they are named, and that no import goes round in a circle.

Everything is found in the sources, so whatever is added is measured too.
"""

import ast
import statistics
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter

import pytest

from llava_pack.cli.app import app
from tests.conftest import ROOT
from tests.support.sources import SOURCES, parsed

MODULE_LINES = 300
MEDIAN, P95, MOST = 8, 30, 60
"""Lines of a function."""


def trees():
    """Return every module's tree by its name."""
    return {module_name(path): parsed(path) for path in SOURCES}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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


def circle(modules):
    """Return one circle of modules, or None."""
    graph = {name: imports(tree, modules.keys()) - {name} for name, tree in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_no_import_goes_round_in_a_circle():
    assert circle(trees()) is None


@pytest.mark.parametrize(
    "back", ["from p import a", "def late():\n    import p.a", "from p.a import thing"]
)
def test_a_circle_is_found_wherever_it_is_closed(back):
    modules = {"p.a": ast.parse("from p.b import x"), "p.b": ast.parse(back)}
    assert circle(modules) is not None


def test_what_only_a_type_checker_reads_closes_no_circle():
    late = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.a"
    assert circle({"p.a": ast.parse("import p.b"), "p.b": ast.parse(late)}) is None


def repeated(modules):
    """Return the modules of each class name that more than one of them has."""
    places = defaultdict(list)
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    return {name: found for name, found in places.items() if len(found) > 1}


def test_a_class_name_is_there_once():
    assert repeated(trees()) == {}


def test_a_class_name_that_is_there_twice_is_found():
    modules = {"a": ast.parse("class Plan: ..."), "b": ast.parse("if True:\n    class Plan: ...")}
    assert repeated(modules) == {"Plan": ["a", "b"]}


def commands(tree=app):
    """Return the functions that typer calls; each of their options takes lines of the signature."""
    called = [one.callback for one in tree.registered_commands]
    below = (commands(group.typer_instance) for group in tree.registered_groups)
    return {f"{one.__module__}.{one.__name__}" for one in called}.union(*below)


def lengths(modules, spared=frozenset()):
    """Return the lines of every function; of those spared, without signature and docstring."""
    found = {}
    for module, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{module}.{node.name}"
                described = ast.get_docstring(node) is not None and len(node.body) > 1
                first = node.body[int(described)] if name in spared else node
                found[f"{name}:{node.lineno}"] = node.end_lineno - first.lineno + 1
    return found


def test_functions_stay_short():
    found = lengths(trees(), commands())
    assert {name: lines for name, lines in found.items() if lines > MOST} == {}
    assert statistics.median(found.values()) <= MEDIAN
    assert statistics.quantiles(found.values(), n=20)[-1] <= P95


def test_only_the_head_of_a_command_is_spared():
    head = 'def run(\n    a: int,\n) -> None:\n    """Run."""\n'
    tree = ast.parse(head + 61 * "    a += 1\n")
    assert lengths({"m": tree}) == {"m.run:1": 65}
    assert lengths({"m": tree}, {"m.run"}) == {"m.run:1": 61}


def test_modules_stay_short():
    found = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines > MODULE_LINES} == {}
