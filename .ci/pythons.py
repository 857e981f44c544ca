"""Run the tests that need no torch on other Pythons of this machine; say which are missing."""

import subprocess
import sys
from pathlib import Path

from uv import find_uv_bin

TESTS = ("tests/unit", "tests/laws", "tests/contracts", "tests/architecture")


def main(versions: list[str]) -> int:
    """Make one environment a version, run the tests in it, and return the first bad exit code."""
    uv = find_uv_bin()
    for version in versions:
        found = subprocess.run(
            [uv, "python", "find", "--no-python-downloads", version],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if found.returncode:
            print(f"Python {version}: not on this machine, its run is left out", flush=True)
            continue
        folder = f".venv-{version}"
        python = Path(folder, "bin", "python")
        steps = [
            [uv, "venv", "--quiet", "--clear", "--python", found.stdout.strip(), folder],
            [uv, "pip", "install", "--quiet", "--python", str(python), "--editable", ".[dev]"],
            [str(python), "-m", "pytest", "-m", "not engine and not browser", *TESTS],
        ]  # fmt: skip
        for step in steps:
            code = subprocess.run(step, check=False).returncode
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
