"""Other programs, run with a known environment and without a way to ask the network."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava_pack.format.errors import InstallError

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "NO_COLOR")
_TAIL_LINES = 12


def environment(scratch: Path) -> dict[str, str]:
    """Return the whole environment of a program that the installer runs.

    Args:
        scratch: a folder for its home, caches and temporary files.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {
        "PATH": SEARCH_PATH,
        "LC_ALL": "C.UTF-8",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "XDG_CACHE_HOME": str(scratch / "cache"),
        "UV_CACHE_DIR": str(scratch / "cache" / "uv"),
        "HF_HOME": str(scratch / "cache" / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **kept,
    }


def run(
    command: Sequence[str | Path], *, what: str, scratch: Path, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it said; it gets no input.

    Raises:
        InstallError: it cannot be started, took too long, or failed; with the end of what it said.
    """
    try:
        done = _run(command, environment(scratch), scratch, timeout_s)
    except OSError as error:
        raise InstallError(f"{what}: cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{what}: did not end within {timeout_s:.0f} s") from error
    if done.returncode != 0:
        tail = " | ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-_TAIL_LINES:])
        raise InstallError(f"{what}: expected exit 0, got {done.returncode}: {tail}")
    return done


def answer(command: Sequence[str], *, timeout_s: float) -> str | None:
    """Return what a program prints, None where it is absent or fails."""
    try:
        done = _run(command, {"PATH": SEARCH_PATH, "LC_ALL": "C"}, Path("/"), timeout_s)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _run(
    command: Sequence[str | Path], env: Mapping[str, str], folder: Path, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=env,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=timeout_s,
        check=False,
    )
