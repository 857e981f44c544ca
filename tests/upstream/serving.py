"""Build the upstream runtime with the demo model, and test it where no network is.

    python tests/upstream/serving.py

Run by `make test-upstream`, with llava-pack's own Python; the first run downloads about 330 MB.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from llava_pack.cli.silence import silenced

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.hub import LoopbackHub, RepoSpec  # noqa: E402 - its folder was just added

DEMO = ROOT / "bundles" / "demo-model"


def main() -> int:
    """Return pytest's exit code, or that of the build."""
    repos = {
        "llava-pack/llava-v1-demo": RepoSpec(folder=DEMO / "llava-v1-demo"),
        "llava-pack/clip-demo": RepoSpec(folder=DEMO / "clip-demo"),
    }
    with tempfile.TemporaryDirectory(prefix="llava-pack-upstream-") as folder:
        bundle = Path(folder, "bundle")
        build = [sys.executable, "-m", "llava_pack", "build", "demo", "--runtime", "upstream"]
        build += ["--python", "target", "--out", str(bundle)]
        with LoopbackHub(repos) as hub:
            environ = {**os.environ, "HF_ENDPOINT": hub.url}
            built = subprocess.run(build, env=environ, check=False)
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
