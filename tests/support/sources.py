"""Sources, each parsed once by a process and only when a test asks for it."""

import ast
import functools
from pathlib import Path

from tests.conftest import ROOT

PACKAGE = ROOT / "llava_pack"
SOURCES = tuple(sorted(PACKAGE.rglob("*.py")))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())
