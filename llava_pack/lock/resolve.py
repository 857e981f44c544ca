"""Ask uv which wheels a target gets: another platform, another Python, wheels only."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from uv import find_uv_bin

from llava_pack.format.errors import NetworkError, RecipeError
from llava_pack.lock.index_failures import network_failure
from llava_pack.lock.indexes import Indexes
from llava_pack.lock.platform import Platform
from llava_pack.lock.pylock import (
    LockedSource,
    LockedWheel,
    every_source,
    every_wheel,
    parse_pylock,
)
from llava_pack.network.front import read_front

TIMEOUT_S = 600
OWN_NAME = "llava-pack"
# Source: uv's own messages (uv-client), when an index does not answer.
_USUAL_HINT = (
    "check the network, set HTTPS_PROXY, or name a mirror (in China: --mirror cn; another one: "
    "UV_DEFAULT_INDEX, or pip's index-url)"
)
_CHOSEN_HINT = (
    "check the network and HTTPS_PROXY, or name another mirror: the index comes from --mirror, "
    "UV_DEFAULT_INDEX or pip's index-url"
)
_UNREACHABLE = ("error sending request", "dns error", "Failed to fetch", "tcp connect error")

# Source: uv's own hint, where --only-binary leaves a package without a file.
_SOURCE_ONLY = re.compile(r"Wheels are required for `([^`]+)` because building from source")
_OWN_INDEX = re.compile(r"by default: <(https://[^>]+)>")
"""Where uv looks if nobody says anything. Source: uv's help of --default-index."""
_OF_TORCH = frozenset({"torch", "torchaudio", "torchvision"})
"""What torch's own indexes are asked for; what those need comes from the package index."""
_WHEELS_ONLY = ("--only-binary", ":all:")


class SourceOnlyError(RecipeError):
    """Packages have no wheel for the target, and sources."""

    def __init__(self, packages: tuple[str, ...], said: str) -> None:
        names = ", ".join(packages)
        super().__init__(
            f"published only as source, or without a wheel for the target: {names}; {said}",
            subject="lock",
            hint="narrow the requirement to a version with wheels, or put a wheel in find-links",
        )
        self.packages = packages


def resolve(
    requirements: Sequence[str],
    platform: Platform,
    indexes: Indexes,
    *,
    torch_backend: str | None = None,
    exclude_newer: str | None = None,
) -> tuple[LockedWheel, ...]:
    """Return the wheels that satisfy `requirements` on `platform`, one a package.

    Raises:
        SourceOnlyError: some packages are published as sources alone.
        RecipeError: the requirements cannot be satisfied with wheels, or need llava-pack itself.
        NetworkError: the package index cannot be reached.
    """
    more = [] if exclude_newer is None else ["--exclude-newer", exclude_newer]
    with tempfile.TemporaryDirectory(prefix="llava-pack-lock-") as folder:
        wanted = _written(requirements, Path(folder), indexes.torch, torch_backend)
        text = _compile(wanted, platform, indexes, [*_WHEELS_ONLY, *more])
        wheels = parse_pylock(text, platform.tags(), base=Path(folder))
    refuse_own_name(wheel.name for wheel in wheels)
    return wheels


def refuse_own_name(names: Iterable[str]) -> None:
    """Refuse packages under llava-pack's own name: they come from the running program alone.

    On an index that name can be anybody's, and whatever asks for it there would get theirs.

    Raises:
        RecipeError: a package has that name.
    """
    if any(canonicalize_name(name) == OWN_NAME for name in names):
        raise RecipeError(
            f"a package asks for {OWN_NAME} from an index, where anybody may own that name; "
            "a bundle carries the llava-pack that builds it",
            subject="lock",
            hint="remove the package that asks for it from the recipe's requirements or the index",
        )


def find_wheels(
    exact: Sequence[str], platform: Platform, indexes: Indexes, *, torch_backend: str | None = None
) -> dict[str, LockedWheel]:
    """Return every wheel of the packages `name==version`, by its sha256; nothing is resolved.

    Raises:
        RecipeError: a package is not there in that version.
        NetworkError: the package index cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="llava-pack-lock-") as folder:
        wanted = _written(exact, Path(folder), indexes.torch, torch_backend)
        text = _compile(wanted, platform, indexes, [*_WHEELS_ONLY, "--no-deps"])
        return {wheel.sha256: wheel for wheel in every_wheel(text, base=Path(folder))}


def find_sources(
    wanted: Sequence[str], platform: Platform, indexes: Indexes, *, exclude_newer: str | None = None
) -> tuple[LockedSource, ...]:
    """Return the source archives of the packages in `wanted`; nothing is built for it.

    Raises:
        RecipeError: a package is not there.
        NetworkError: the package index cannot be reached.
    """
    more = ["--no-deps", *([] if exclude_newer is None else ["--exclude-newer", exclude_newer])]
    with tempfile.TemporaryDirectory(prefix="llava-pack-lock-") as folder:
        text = _compile(_written(wanted, Path(folder)), platform, indexes, more)
        return every_source(text, base=Path(folder))


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """Requirements in a file for uv, and the options that go with it."""

    file: Path
    options: tuple[str, ...] = ()


def _written(
    requirements: Sequence[str], folder: Path, torch: str | None = None, backend: str | None = None
) -> _Wanted:
    """Write requirements to a file of `folder`.

    uv knows torch's own indexes by `--torch-backend`, and cannot be told of a mirror of them; there
    a project's file says which packages come from which index, and that no other does.

    Args:
        requirements: a line each.
        folder: an empty one.
        torch: a mirror of torch's indexes.
        backend: which of them; None and `pypi` for none.
    """
    if torch is None or backend in {None, "pypi"}:
        file = folder / "requirements.in"
        file.write_bytes("".join(f"{line}\n" for line in requirements).encode())
        return _Wanted(file=file, options=() if backend is None else ("--torch-backend", backend))
    named = {canonicalize_name(Requirement(line).name) for line in requirements}
    file = folder / "pyproject.toml"
    lines = [
        "[project]",
        'name = "wanted"',
        'version = "0"',
        f"dependencies = {json.dumps(list(requirements))}",
        "[[tool.uv.index]]",
        f'name = "torch"\nurl = {json.dumps(f"{torch}/{backend}")}\nexplicit = true',
        "[tool.uv.sources]",
        *(f'{name} = {{ index = "torch" }}' for name in sorted(named & _OF_TORCH)),
    ]
    file.write_bytes(("\n".join(lines) + "\n").encode())
    return _Wanted(file=file)


def _compile(wanted: _Wanted, platform: Platform, indexes: Indexes, more: Sequence[str]) -> str:
    """Return the pylock.toml that uv writes."""
    lock = wanted.file.with_name("pylock.toml")
    command = [*_command(wanted.file, lock, platform, indexes), *wanted.options, *more]
    environ = {**os.environ, **indexes.environment}
    front = read_front(environ)
    try:
        _run(command, front.environment(environ))
    except SourceOnlyError:
        raise
    except (NetworkError, RecipeError) as error:
        if obstacle := network_failure(str(error), default_index(environ, indexes), front):
            raise obstacle from error
        raise
    return lock.read_text(encoding="utf-8")


def default_index(environ: Mapping[str, str], indexes: Indexes) -> str:
    """Return the index that uv asks first: of its variables, of configurations, or its own."""
    variables = (environ.get(name) for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"))
    if configured := next(filter(None, (*variables, *indexes.urls)), None):
        return configured
    command = [find_uv_bin(), "pip", "compile", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = _OWN_INDEX.search(text)
    return "" if match is None else match[1]


def _command(wanted: Path, lock: Path, platform: Platform, indexes: Indexes) -> list[str]:
    command = [find_uv_bin(), "pip", "compile", str(wanted), "--output-file", str(lock)]
    command += ["--python", sys.executable]  # which uv would look for on the PATH
    command += ["--python-version", platform.python, "--python-platform", platform.uv_platform]
    command += ["--generate-hashes", "--format", "pylock.toml"]
    command += ["--no-header", "--quiet", "--no-progress", *indexes.arguments()]
    return command


def _run(command: Sequence[str], environ: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environ,
            check=False,
            timeout=TIMEOUT_S,
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
            hint=_CHOSEN_HINT if environ.get("UV_DEFAULT_INDEX") else _USUAL_HINT,
        )
    if found := tuple(dict.fromkeys(_SOURCE_ONLY.findall(said))):
        raise SourceOnlyError(found, said)
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
