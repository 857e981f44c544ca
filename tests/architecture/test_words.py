"""What a person reads in more than one language is there in each, for every value that there is.

Words stand in tables by language. Within a language, a table is asked for the value of a variable
only where the type of that value is a Literal, and then every member of the Literal has its words.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from llava_pack.format.text import LANGUAGES
from tests.conftest import ROOT
from tests.support.sources import SOURCES, parsed

_OF_LANGUAGES = re.compile("|".join(f"['\"]{one}['\"]" for one in LANGUAGES))
_BY_LANGUAGE = [path for path in SOURCES if _OF_LANGUAGES.search(path.read_text())]


def _tables() -> Iterator[tuple[str, str]]:
    """Yield module and name of every table whose keys are languages."""
    for path in _BY_LANGUAGE:
        for node in parsed(path).body:
            if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(
                node.value, ast.Dict
            ):
                continue
            keys = {getattr(key, "value", None) for key in node.value.keys}
            if keys & set(LANGUAGES):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
                yield module, ast.unparse(target)


TABLES = list(_tables())


def _table(module: str, name: str) -> tuple[Any, tuple[str, ...]]:
    """Return a table, and the members of the Literal by which its words go, none without one."""
    home = importlib.import_module(module)
    by_language = get_args(home.__annotations__.get(name))
    by_word = get_args(by_language[1]) if len(by_language) > 1 else ()
    return getattr(home, name), get_args(by_word[0]) if by_word else ()


def _unsure(tree: ast.AST, plain: set[str]) -> Iterator[int]:
    """Yield the lines that ask a table of plain words for the value of a variable."""

    def is_table(node: ast.expr) -> bool:
        return isinstance(node, ast.Subscript) and ast.unparse(node.value) in plain

    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        names = {
            ast.unparse(node.targets[0])
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and is_table(node.value)
        }
        for node in ast.walk(function):
            by_variable = isinstance(node, ast.Subscript) and not isinstance(
                node.slice, ast.Constant
            )
            if by_variable and (is_table(node.value) or ast.unparse(node.value) in names):
                yield node.lineno


@pytest.mark.parametrize(("module", "name"), TABLES)
def test_every_member_has_its_words_in_every_language(module: str, name: str) -> None:
    table, members = _table(module, name)
    assert set(table) == set(LANGUAGES)
    if isinstance(table["en"], dict):
        for language in LANGUAGES:
            assert set(table[language]) == set(members or table["en"]), language
            assert all(table[language].values())


def test_plain_words_are_asked_for_by_name_alone() -> None:
    plain = {name for module, name in TABLES if not _table(module, name)[1]}
    found = [f"{path}:{line}" for path in SOURCES for line in _unsure(parsed(path), plain)]
    assert not found, "give the value a Literal type and a table of its own, keyed by that"


def test_the_page_s_tables_are_seen() -> None:
    assert ("llava_pack.serve.port", "PHASE_WORDS") in TABLES
    assert _table("llava_pack.serve.port", "PHASE_WORDS")[1]


@pytest.mark.parametrize(
    "body", ["words = T[language]\n    return words[status.phase]", "return T[language][word]"]
)
def test_a_value_that_may_have_no_words_is_seen(body: str) -> None:
    """The mutation: the status line as it was when it met `warming`."""
    assert list(_unsure(ast.parse(f"def f():\n    {body}"), {"T"}))
