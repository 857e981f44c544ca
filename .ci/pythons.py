"""Run the tests that need no torch on other Pythons of this machine; say which are missing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from uv import find_uv_bin

TESTS = ("tests/unit", "tests/laws", "tests/contracts", "tests/architecture")
MARKERS = "not engine and not browser"


def main(versions: list[str]) -> int:
    """Make one environment a version, run the tests in it, and return the first bad exit code."""
    uv = find_uv_bin()
    for version in versions:
        found = next((python for python in _candidates(version) if _runs(python, version)), None)
        if found is None:
            print(f"Python {version}: not on this machine, its run is left out", flush=True)
            continue
        folder = f".venv-{version}"
        python = Path(folder, "bin", "python")
        steps = [
            [uv, "venv", "--quiet", "--clear", "--seed", "--python", found, folder],
            [uv, "pip", "install", "--quiet", "--python", str(python), "--editable", ".[dev]"],
            [str(python), "-m", "pytest", "-n", "2", "-m", MARKERS, *TESTS],
        ]
        for step in steps:
            code = subprocess.run(step, check=False).returncode
            if code:
                return code
    return 0


def _candidates(version: str) -> Iterator[str]:
    """Yield where a Python may be: what is on the PATH, then pyenv's folders."""
    yield f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    yield from map(str, sorted((pyenv / "versions").glob(f"{version}.*/bin/python")))


def _runs(python: str, version: str) -> bool:
    question = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", question], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() == version


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
