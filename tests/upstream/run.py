"""Make the environment of LLaVA's own code, record its answers again, and compare.

    python tests/upstream/run.py [--environment DIR] [--update]

Run by `make test-upstream`, with llava-pack's own Python; the first run downloads about 300 MB.
"""

import argparse
import base64
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from uv import find_uv_bin

from llava_pack.lock.indexes import configured_indexes
from llava_pack.lock.platform import Platform
from llava_pack.lock.torch_build import choose_torch

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = ROOT / "tests" / "upstream" / "goldens"
LLAVA = "llava-torch==1.2.2.post1"
PINS = (
    "transformers==4.37.2", "tokenizers==0.15.1", "accelerate==0.27.2", "peft==0.4.0",
    "numpy==1.26.4", "protobuf<5", "sentencepiece", "einops", "requests", "setuptools",
    # Pillow rounds differently from release to release: the same one on both sides.
    f"pillow=={version('pillow')}",
)  # fmt: skip
TOLERANCE = 1e-5


def main() -> int:
    """Return 0 where everything is as it was recorded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-upstream")
    parser.add_argument("--update", action="store_true", help="keep what is recorded now")
    given = parser.parse_args()
    python = _environment(given.environment)
    with tempfile.TemporaryDirectory() as folder:
        out = GOLDENS if given.update else Path(folder)
        _record(python, "record_goldens.py", out)
        _record(python, "record_demo_goldens.py", out / "demo.json")
        names = {path.name for one in (out, GOLDENS) for path in one.glob("*.json")}
        differences = [line for name in sorted(names) for line in _compared(out, name)]
    print(*differences, sep="\n")
    print(f"{len(differences)} differences from {GOLDENS.relative_to(ROOT)}")
    return int(bool(differences))


def _running_platform() -> Platform:
    """Return the platform of the machine and the Python that run this; glibc 2.28 off Linux."""
    libc, version = platform.libc_ver()
    minor = int(version.split(".")[1]) if libc == "glibc" and "." in version else 28
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    arch = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    return Platform(python=python, arch=arch, glibc_minor=minor)


def _environment(folder: Path) -> str:
    """Return the Python of the environment, made where it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        uv, indexes = find_uv_bin(), configured_indexes()
        torch = choose_torch("none", _running_platform(), indexes.local_folders(), backend=None)
        subprocess.run([uv, "venv", "--python", sys.executable, str(folder)], check=True)
        install = [uv, "pip", "install", "--python", str(python), *indexes.arguments()]
        backend = ["--torch-backend", torch.backend] if torch.backend else []
        wanted = [*PINS, *(torch.requirements or ("torch",))]
        subprocess.run([*install, *backend, *wanted], check=True)
        # Its own pins are torch 2.0 and gradio 4: nothing of them is used here.
        subprocess.run([*install, "--no-deps", LLAVA], check=True)
    return str(python)


def _record(python: str, script: str, out: Path) -> None:
    recorder = str(ROOT / "tests" / "upstream" / script)
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([python, recorder, "--out", str(out)], check=True, env=offline)


def _compared(out: Path, name: str) -> list[str]:
    """Return what is recorded now and differs from the golden of this name."""
    paths = (out / name, GOLDENS / name)
    if not all(path.is_file() for path in paths):
        return [f"{name}: there on one side only"]
    now, golden = (json.loads(path.read_bytes()) for path in paths)
    kind = "prompts" if "prompts" in golden else "chats"
    if kind == "prompts" or isinstance(golden[kind], list):
        return [] if now[kind] == golden[kind] else [f"{name}: other {kind}"]
    if now[kind].keys() != golden[kind].keys():
        return [f"{name}: other chats than were asked"]
    return [
        f"{name}, {chat}: other {key}"
        for chat, answer in golden[kind].items()
        for key, value in answer.items()
        if not _alike(key, now[kind][chat][key], value)
    ]


def _alike(key: str, now: Any, golden: Any) -> bool:
    if key != "logits":
        return bool(now == golden)
    values = [np.frombuffer(base64.b64decode(text), "<f4") for text in (now, golden)]
    return bool(np.abs(values[0] - values[1]).max() <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
