"""Ask uv which wheels a target gets: another platform, another Python, wheels only."""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from uv import find_uv_bin

from llava_pack.format.errors import NetworkError, RecipeError
from llava_pack.lock.indexes import Indexes
from llava_pack.lock.platform import Platform
from llava_pack.lock.pylock import LockedWheel, parse_pylock

TIMEOUT_S = 600
# Source: uv's own messages (uv-client), when an index does not answer.
_UNREACHABLE = ("error sending request", "dns error", "Failed to fetch", "tcp connect error")


def resolve(
    requirements: Sequence[str],
    platform: Platform,
    indexes: Indexes,
    *,
    torch_backend: str | None = None,
) -> tuple[LockedWheel, ...]:
    """Return the wheels that satisfy `requirements` on `platform`, one a package.

    Raises:
        RecipeError: the requirements cannot be satisfied with wheels.
        NetworkError: the package index cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="llava-pack-lock-") as folder:
        wanted = Path(folder, "requirements.in")
        lock = Path(folder, "pylock.toml")
        wanted.write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
        command = _command(wanted, lock, platform, indexes, torch_backend)
        _run(command, {**os.environ, **(indexes.environment or {})})
        return parse_pylock(lock.read_text(encoding="utf-8"), platform.tags(), base=lock.parent)


def _command(
    wanted: Path, lock: Path, platform: Platform, indexes: Indexes, torch_backend: str | None
) -> list[str]:
    command = [find_uv_bin(), "pip", "compile", str(wanted), "--output-file", str(lock)]
    command += ["--python-version", platform.python, "--python-platform", platform.uv_platform]
    command += ["--only-binary", ":all:", "--generate-hashes", "--format", "pylock.toml"]
    command += ["--no-header", "--quiet", "--no-progress", *indexes.arguments()]
    if torch_backend is not None:
        command += ["--torch-backend", torch_backend]
    return command


def _run(command: Sequence[str], environ: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environ, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise NetworkError(
            f"the package index did not answer within {TIMEOUT_S} s",
            subject="lock",
            hint="check the proxy and index settings of uv and pip, then run the command again",
        ) from error
    if done.returncode == 0:
        return
    said = _without_secrets(done.stderr.strip())
    if any(phrase in said for phrase in _UNREACHABLE):
        raise NetworkError(
            f"the package index cannot be reached: {said}",
            subject="lock",
            hint="set UV_DEFAULT_INDEX (or pip's index-url) to your mirror, or fix the proxy",
        )
    raise RecipeError(
        f"no set of wheels satisfies the requirements: {said}",
        subject="lock",
        hint="choose another --python or --platform, or narrow the recipe's requirements",
    )


def _without_secrets(text: str) -> str:
    """Return `text` with the user part of every URL blanked."""
    parts = text.split("://")
    return "://".join(
        [parts[0], *(p.split("@", 1)[1] if "@" in p.split("/", 1)[0] else p for p in parts[1:])]
    )
