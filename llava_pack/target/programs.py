"""Other programs, run with a known environment and without a way to ask the network."""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from llava_pack.format import files
from llava_pack.format.errors import InstallError, NetworkError, PackError, SpaceError
from llava_pack.target import environment
from llava_pack.target.disk import SHORT
from llava_pack.target.silence import REACHED_OUT

if sys.platform == "win32":
    from llava_pack.format.windows import SEARCH_PATH, SYSTEM
else:
    SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    SYSTEM: dict[str, str] = {}
_KEPT = (*environment.ENGINE, "NO_COLOR")
_TAIL_LINES = 12


def run(
    command: Sequence[str | Path],
    *,
    what: str,
    scratch: Path,
    timeout_s: float,
    kept: Iterable[str] = (),
) -> str:
    """Run a program to its end and return what it printed; it gets no input.

    Args:
        command: an absolute path and arguments.
        what: the work, for the message.
        scratch: its home, with its caches and temporary files.
        timeout_s: after this it is killed.
        kept: names of more variables of this process that it gets.

    Raises:
        InstallError: it cannot be started, took too long, or failed; with the end of what it said.
        NetworkError: it reached for another host.
        SpaceError: it found no space left.
    """
    env = {
        **{name: os.environ[name] for name in kept},
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "XDG_CACHE_HOME": str(scratch / "cache"),
        "UV_CACHE_DIR": str(scratch / "cache" / "uv"),
        "HF_HOME": str(scratch / "cache" / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        done = _run(command, env, scratch, timeout_s)
    except OSError as error:
        raise InstallError(f"{what}: cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{what}: did not finish within {timeout_s:.0f} s") from error
    if done.returncode != 0:
        tail = " | ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-_TAIL_LINES:])
        failure: type[PackError] = InstallError
        if done.returncode == REACHED_OUT:
            failure = NetworkError
        elif any(os.strerror(one) in tail for one in files.FULL):
            failure = SpaceError
        raise failure(f"{what}: expected exit 0, got {done.returncode}: {tail}")
    return done.stdout


def answer(command: Sequence[str]) -> str | None:
    """Return what a program prints, None where it is absent, fails or does not end."""
    try:
        done = _run(command, {}, Path("/"), timeout_s=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        if isinstance(error, OSError) and error.errno in SHORT:
            raise
        return None
    return done.stdout if done.returncode == 0 else None


def _run(
    command: Sequence[str | Path], env: Mapping[str, str], folder: Path, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return subprocess.run(
        command,
        env={"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8", **kept, **env},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=timeout_s,
        check=False,
    )
