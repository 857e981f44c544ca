"""Locks as pylock.toml: read what uv resolved, write what a bundle carries.

Source: the pylock.toml specification (PEP 751).
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag
from packaging.utils import canonicalize_name, parse_wheel_filename

from llava_pack.format.errors import RecipeError

_HEADER = 'lock-version = "1.0"\ncreated-by = "llava-pack"\n'


@dataclass(frozen=True, kw_only=True)
class LockedWheel:
    """One wheel of a lock.

    Attributes:
        name: normalized name of the distribution.
        filename: name of the wheel file.
        url: where it is fetched from, `file:` for a local folder; never written into a bundle.
        size_bytes: None where the index does not say.
        source_sha256: of the source archive that it was built from here, None for a published one.
    """

    name: str
    version: str
    filename: str
    url: str
    sha256: str
    size_bytes: int | None = None
    source_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class LockedSource:
    """The source archive of a package."""

    name: str
    version: str
    filename: str
    url: str
    sha256: str


def parse_pylock(text: str, tags: Sequence[Tag], *, base: Path) -> tuple[LockedWheel, ...]:
    """Return one wheel a package, the one that fits the target's tags best.

    Args:
        text: what `uv pip compile --format pylock.toml` wrote.
        tags: what the target accepts, best first.
        base: the folder that relative paths in the lock start from.

    Raises:
        RecipeError: some packages have no wheel for the target, or no sha256; all are named.
    """
    rank = {tag: position for position, tag in enumerate(tags)}
    wheels: list[LockedWheel] = []
    defects: list[str] = []
    for package in tomllib.loads(text).get("packages", []):
        best = _best(_wheels(package), rank)
        if best is None:
            defects.append(f"{package['name']} {package.get('version', '')} has no wheel for it")
        elif "sha256" not in best.get("hashes", {}):
            defects.append(f"{package['name']} has no sha256 in its index")
        else:
            wheels.append(_locked(package, best, base))
    if defects:
        raise RecipeError(
            f"the target cannot be covered by wheels alone: {'; '.join(defects)}",
            subject="lock",
            hint="choose another --python or --platform, or narrow the recipe's requirements",
        )
    return tuple(sorted(wheels, key=lambda wheel: wheel.name))


def every_wheel(text: str, *, base: Path) -> tuple[LockedWheel, ...]:
    """Return every wheel that a lock lists with a sha256, whatever it is for."""
    return tuple(
        _locked(package, wheel, base)
        for package in tomllib.loads(text).get("packages", [])
        for wheel in package.get("wheels", [])
        if "sha256" in wheel.get("hashes", {})
    )


def every_source(text: str, *, base: Path) -> tuple[LockedSource, ...]:
    """Return every .tar.gz of sources that a lock lists with a sha256."""
    found = []
    for package in tomllib.loads(text).get("packages", []):
        source = package.get("sdist", {})
        if "sha256" in source.get("hashes", {}) and _filename(source).endswith(".tar.gz"):
            found.append(LockedSource(**_stated(package, source, base)))
    return tuple(found)


def render_pylock(wheels: Iterable[LockedWheel], *, python: str, folder: str) -> bytes:
    """Return a pylock.toml whose wheels are files of `folder`, relative to the lock's own.

    >>> wheel = LockedWheel(name="a", version="1", filename="a-1-py3-none-any.whl",
    ...                     url="", sha256="00", size_bytes=3)
    >>> print(render_pylock([wheel], python="3.11", folder="../wheels").decode())
    lock-version = "1.0"
    created-by = "llava-pack"
    requires-python = ">=3.11"
    <BLANKLINE>
    [[packages]]
    name = "a"
    version = "1"
    wheels = [{ path = "../wheels/a-1-py3-none-any.whl", size = 3, hashes = { sha256 = "00" } }]
    <BLANKLINE>
    """
    lines = [f'{_HEADER}requires-python = ">={python}"\n']
    for wheel in sorted(wheels, key=lambda wheel: wheel.name):
        size = "" if wheel.size_bytes is None else f"size = {wheel.size_bytes}, "
        lines.append(
            f'\n[[packages]]\nname = "{wheel.name}"\nversion = "{wheel.version}"\n'
            f'wheels = [{{ path = "{folder}/{wheel.filename}", {size}'
            f'hashes = {{ sha256 = "{wheel.sha256}" }} }}]\n'
        )
    return "".join(lines).encode()


def _wheels(package: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a package's wheels; one that was asked for by its address is its archive."""
    archive = package.get("archive")
    own = [archive] if archive is not None and _filename(archive).endswith(".whl") else []
    return [*package.get("wheels", []), *own]


def _best(wheels: Sequence[Mapping[str, Any]], rank: Mapping[Tag, int]) -> Mapping[str, Any] | None:
    ranked = [(place, wheel) for wheel in wheels if (place := _place(wheel, rank)) is not None]
    return min(ranked, key=lambda pair: pair[0])[1] if ranked else None


def _place(wheel: Mapping[str, Any], rank: Mapping[Tag, int]) -> int | None:
    tags = parse_wheel_filename(_filename(wheel))[3]
    places = [rank[tag] for tag in tags if tag in rank]
    return min(places) if places else None


def _filename(wheel: Mapping[str, Any]) -> str:
    where = wheel.get("url") or wheel["path"]
    return str(wheel.get("name") or unquote(urlsplit(where).path.rsplit("/", 1)[-1]))


def _locked(package: Mapping[str, Any], wheel: Mapping[str, Any], base: Path) -> LockedWheel:
    return LockedWheel(**_stated(package, wheel, base), size_bytes=wheel.get("size"))


def _stated(package: Mapping[str, Any], file: Mapping[str, Any], base: Path) -> dict[str, str]:
    """Return what a lock says of a file of a package, by the fields of both records."""
    return {
        "name": canonicalize_name(package["name"]),
        "version": str(package["version"]),
        "filename": _filename(file),
        "url": file.get("url") or (base / file["path"]).resolve().as_uri(),
        "sha256": file["hashes"]["sha256"],
    }
