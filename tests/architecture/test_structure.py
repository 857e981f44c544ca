"""What may be imported where, and who may print."""

import ast
import subprocess
import sys

from llava_pack.runtimes import RUNTIMES
from tests.conftest import ROOT
from tests.support.sources import PACKAGE, SOURCES, parsed

HEAVY = ("torch", "transformers", "bitsandbytes", "gradio", "accelerate")


def imported(path, *, top_level_only=False):
    tree = parsed(path)
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from llava_pack.cli import main\n"
        "code = main(['--help'])\n"
        f"found = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "sys.exit(f'loaded {found}' if found or code else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_supervisor_loads_nothing_that_strangers_reach():
    """It stays light, and a hole in a web framework or a picture library is none of its own."""
    foreign = (*HEAVY, "fastapi", "starlette", "uvicorn", "pydantic", "PIL", "httpx", "numpy")
    code = (
        "import sys, llava_pack.serve.supervision.supervisor\n"
        f"found = sorted(set({foreign!r}) & set(sys.modules))\n"
        "sys.exit(f'loaded {found}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_torch_stays_in_engine_and_convert():
    for path in SOURCES:
        where = path.relative_to(ROOT).parts[1]
        names = {name.partition(".")[0] for name in imported(path)}
        if where not in {"engine", "convert"}:
            assert not names & {"torch", "transformers", "bitsandbytes"}, path
        # the launcher runs in LLaVA's own environment alone, with LLaVA's own gradio
        launcher = path.parts[-2:] == ("llava_serve", "launcher.py")
        assert launcher or "gradio" not in names, path


def test_click_is_never_imported():
    for path in SOURCES:
        assert "click" not in {name.partition(".")[0] for name in imported(path)}, path


def test_a_runtime_is_looked_up_and_never_compared_with():
    for path in SOURCES:
        compared = [
            part.value
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Compare)
            for part in ast.walk(node)
            if isinstance(part, ast.Constant)
        ]
        assert not RUNTIMES.keys() & {*compared}, f"{path}: ask its entry in llava_pack/runtimes.py"


def test_only_two_modules_print():
    for path in SOURCES:
        calls = [
            node
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
        ]
        allowed = path in {PACKAGE / "cli" / "console.py", PACKAGE / "target" / "main.py"}
        assert allowed or not calls, path


def test_import_contracts_hold():
    done = subprocess.run(
        ["lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PATH": f"{sys.prefix}/bin:/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
