"""Facts that have one owner are stated nowhere else."""

import ast
from collections.abc import Iterator

import pytest

from llava_pack.format.precision import FACTS, PRECISIONS
from tests.conftest import ROOT
from tests.support.sources import PACKAGE, SOURCES, parsed

_OWNER = PACKAGE / "format" / "precision.py"


def _lists(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    """Yield the place and the texts of every list, tuple, set, table and Literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            parts = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.List | ast.Tuple | ast.Set | ast.ListComp | ast.SetComp):
            parts = [node]
        else:
            continue
        texts = [
            one.value for part in parts for one in ast.walk(part) if isinstance(one, ast.Constant)
        ]
        yield node.lineno, {text for text in texts if isinstance(text, str)}


def _restated(tree: ast.AST) -> list[int]:
    """Return the lines of lists that spell out two precisions or more."""
    return [line for line, texts in _lists(tree) if len(texts & set(PRECISIONS)) > 1]


def test_precisions_are_listed_by_their_owner_alone() -> None:
    others = [path for path in SOURCES if path != _OWNER]
    found = [
        f"{path.relative_to(ROOT)}:{line}" for path in others for line in _restated(parsed(path))
    ]
    assert not found, "derive it from llava_pack/format/precision.py"


@pytest.mark.parametrize(
    "source",
    [
        'P = Literal["int8", "nf4"]',
        'P = ("auto", "fp16", "nf4")',
        'P = {"int8": 8, "nf4": 4}',
        'asked = {name for name, on in (("nf4", a), ("int8", b)) if on}',
        'if precision in {"fp16", "bf16"}: pass',
    ],
)
def test_a_second_list_is_seen(source: str) -> None:
    assert _restated(ast.parse(source))


def test_one_precision_may_be_named() -> None:
    source = 'P = {"precision": "nf4", "auto": 1}; Q = ("fp32", *QUANTIZED)'
    assert not _restated(ast.parse(source))


def test_the_facts_are_those_of_every_precision() -> None:
    assert tuple(FACTS) == PRECISIONS


def test_findings_of_health_are_made_by_their_layer() -> None:
    """Also what a support bundle may tell of them is found by that."""
    for path in SOURCES:
        if path.name != "report.py":
            calls = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
            assert not any(word.arg == "layer" for call in calls for word in call.keywords), path
