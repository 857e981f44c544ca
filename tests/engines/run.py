"""Engines of the field on this machine's CPU, installed from a bundle, where no network is.

    python tests/engines/run.py [ENGINE…] [-- PYTEST-OPTION…]

Run by `make test-engines`; ENGINE is vllm or sglang, both by default. The first run downloads some
800 MB, of which bundles are built here; everything after that is done in a namespace without a
route, with a /dev/shm of its own so that whatever is left there is seen.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.engines.wheels import make_wheelhouse  # noqa: E402 - found by the line above

FOLDER = ROOT / ".venv-engines"
ENGINES = ("vllm", "sglang")
_OF_SYSTEM = "/usr/sbin:/sbin"
_NO_TESTS = {"run.py", "conftest.py", "wheels.py", "installed.py"}


def main(arguments: Sequence[str]) -> int:
    """Return pytest's exit code."""
    engines = [name for name in arguments if name in ENGINES] or list(ENGINES)
    options = [word for word in arguments if word not in {*ENGINES, "--"}]
    wheels = make_wheelhouse(FOLDER / "wheels")
    for engine in engines:
        _build(engine, wheels)
    own = [str(path) for path in sorted(ROOT.glob("tests/engines/*.py"))]
    files = [path for path in own if Path(path).name not in _NO_TESTS]
    named = any(word.endswith(".py") or ".py::" in word for word in options)
    test = [sys.executable, "-m", "pytest", "-n", "0", "-v", "-p", "no:cacheprovider"]
    return _within([*test, *options, *([] if named else files)], engines)


def _build(engine: str, wheels: Path) -> None:
    """Build the demo's bundle for an engine; what was fetched once is not fetched again."""
    build = [sys.executable, "-m", "llava_pack", "build", "demo", "--runtime", engine]
    build += ["--cuda", "none", "--python", "target", "--replace"]
    links = f"{os.environ.get('UV_FIND_LINKS', '')},{wheels}".lstrip(",")
    environ = {**os.environ, "UV_FIND_LINKS": links, "PYTHONPATH": str(ROOT)}
    out = FOLDER / "bundles" / engine
    subprocess.run([*build, "--out", str(out)], check=True, env=environ, cwd=ROOT)


def _within(command: Sequence[str], engines: Sequence[str]) -> int:
    """Run a command where no network is."""
    steps = 'ip link set lo up && mount -t tmpfs own /dev/shm && exec "$@"'
    inside = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c", steps, "sh"]
    environ = {
        **os.environ,
        "PATH": f"{os.environ['PATH']}:{_OF_SYSTEM}",
        "TEST_ENGINES": " ".join(engines),
    }
    return subprocess.run([*inside, *command], cwd=ROOT, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
