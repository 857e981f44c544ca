"""Run the tests that need no torch on other Pythons of this machine; say which are missing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from uv import find_uv_bin

TESTS = ("tests/unit", "tests/laws", "tests/contracts")
"""Of the newest; of others `tests/unit` alone. tests/architecture reads the sources, which are the
same for every Python."""
OLDEST = ("llguidance==1.6.1",)
"""What servers with an older C library get; all Pythons but the newest test with it."""
LIKEWISE = ("tests/unit/cli/test_chinese.py", "tests/contracts/test_remote_host.py")
"""Left out: what they hold is in a catalogue and in sh, and each of them takes half a minute."""
MARKERS = "not engine and not browser"


def main(versions: list[str]) -> int:
    """Test versions beside each other, oldest first; return the worst exit code."""
    uv = find_uv_bin()  # once: before 3.12 two threads that ask sysconfig first disturb each other
    with ThreadPoolExecutor(len(versions)) as pool:
        codes = []
        tests = [TESTS if version == versions[-1] else TESTS[:1] for version in versions]
        pins = [() if version == versions[-1] else OLDEST for version in versions]
        ended = pool.map(partial(_tested, uv), versions, tests, pins)
        for version, (code, said) in zip(versions, ended, strict=True):
            print(f"Python {version}: {said.rstrip()}", flush=True)
            codes.append(code)
    return max(codes)


def _tested(
    uv: str, version: str, tests: tuple[str, ...], pins: tuple[str, ...]
) -> tuple[int, str]:
    """Make an environment, run the tests in it, and return the exit code and what was said."""
    found = next((python for python in _candidates(version) if _runs(python, version)), None)
    if found is None:
        return 0, "not on this machine, its run is left out"
    folder = f".venv-{version}"
    options = ["--hypothesis-profile=few", *(f"--ignore={path}" for path in LIKEWISE)]
    python = str(Path(folder, "bin", "python"))
    said = ""
    for step in (
        [uv, "venv", "--quiet", "--clear", "--seed", "--python", found, folder],
        [uv, "pip", "install", "--quiet", "--python", python, "--editable", ".[dev]", *pins],
        [python, "-m", "pytest", "-n", "0", "-m", MARKERS, *options, *tests],
    ):
        done = subprocess.run(
            step, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        said += done.stdout
        if done.returncode:
            return abs(done.returncode), said
    return 0, said


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
