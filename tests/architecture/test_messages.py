"""What `checkpoint/` says when it refuses: each message has a test, and `explain` knows it."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from llava_pack.health.knowledge import known_failures, recognise
from tests.conftest import ROOT
from tests.support.provoked import SPOKEN
from tests.support.sources import parsed
from tests.support.spoken import ROOM

SPEAKERS = {"CheckpointError", "UsageError", "Defect", "refusal", "_refusal", "refuse"}
PARTS = {"ValueError", "TypeError", "IndexError", "SecurityError", "TemplateError", "BadZipFile"}
"""Errors whose text ends up in a message of ours."""


def sites() -> Iterator[tuple[str, int, int]]:
    """Yield the file, first and last line of every place that makes a message, or a part of one."""
    for path in sorted(ROOM.glob("*.py")):
        tree = parsed(path)
        raised = {id(node.exc) for node in ast.walk(tree) if isinstance(node, ast.Raise)}
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and call.args and _speaks(call, raised):
                yield path.name, call.lineno, call.end_lineno or call.lineno


def _speaks(call: ast.Call, raised: set[int]) -> bool:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if name == "refuse" and isinstance(call.args[0], ast.Name):  # defects that were made before
        return False
    return name in SPEAKERS or (id(call) in raised and name in PARTS)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Return what the unit tests make `checkpoint/` say."""
    path = tmp_path_factory.mktemp("said") / "said.jsonl"
    options = ("-n0", "-m", "not engine", "-p", "tests.support.spoken", "--hypothesis-profile=few")
    environ = {**os.environ, "SPOKEN": str(path), "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", *options, "tests/unit/checkpoint"]
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_message_has_a_test_that_provokes_it(said):
    heard = {tuple(place) for one in said for place in one["places"]}
    silent = [
        f"{file}:{first}"
        for file, first, last in sites()
        if not any((file, line) in heard for line in range(first, last + 1))
    ]
    assert silent == []


def test_explain_knows_each_message(said):
    """One without a subject is a part of another, or tells a caller of ours."""
    failures = known_failures()
    texts = {one["text"] for one in said if one["subject"]}
    known = {text: [one.id for one in recognise(text, failures)] for text in texts}
    assert [text for text, ids in known.items() if not ids] == []
    first = {ids[0] for ids in known.values()}
    assert set(SPOKEN) <= first, "a known failure that no message shows"
