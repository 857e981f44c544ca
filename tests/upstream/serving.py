"""Build the upstream runtime with the demo model, and test it where no network is.

    python tests/upstream/serving.py

Run by `make test-upstream`, with llava-pack's own Python; the first run downloads about 330 MB.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from llava_pack.cli.laptop.silence import silenced

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Return pytest's exit code, or that of the build."""
    with tempfile.TemporaryDirectory(prefix="llava-pack-upstream-") as folder:
        bundle = Path(folder, "bundle")
        build = [sys.executable, "-m", "llava_pack", "build", "demo", "--runtime", "upstream"]
        build += ["--python", "target", "--out", str(bundle)]
        built = subprocess.run(build, check=False)
        if built.returncode:
            return built.returncode
        test = [sys.executable, "-m", "pytest", "-n", "0", "-v"]
        inside = silenced([*test, str(ROOT / "tests" / "upstream" / "check_serving.py")])
        if inside is None:
            sys.stderr.write("this machine allows no network namespace: nothing was tested\n")
            return 1
        environ = {**os.environ, "UPSTREAM_BUNDLE": str(bundle)}
        return subprocess.run(inside, env=environ, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
