"""Complete the development environment: llava-pack with its serving side on a CPU build of torch.

A `torch-*+cpu` wheel that lies in find-links is pinned exactly; else uv's CPU index is asked; else
torch comes from the package index with its CUDA libraries, after saying how much that is.
"""

import os
import subprocess
import sys

from uv import find_uv_bin

from llava_pack.lock.indexes import configured_indexes
from llava_pack.lock.platform import running_platform
from llava_pack.lock.torch_build import choose_torch


def main() -> int:
    """Install, and return the exit code."""
    indexes = configured_indexes()
    for backend in (None, "pypi"):
        choice = choose_torch("none", running_platform(), indexes.local_folders(), backend=backend)
        if choice.note:
            print(choice.note, flush=True)
        command = [find_uv_bin(), "pip", "install", "--quiet", "--python", sys.executable]
        command += ["--editable", ".[dev,serve]", *choice.requirements, *indexes.arguments()]
        if choice.backend is not None:
            command += ["--torch-backend", choice.backend]
        environ = {**os.environ, **indexes.environment}
        if subprocess.run(command, check=False, env=environ).returncode == 0:
            return 0
        if choice.requirements:
            break
    return 1


if __name__ == "__main__":
    sys.exit(main())
